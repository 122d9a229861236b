//! Modify: record which parameters the volume is to have, wait until its backend has changed them. Only what
//! the backend calls mutable can be wished; a final refusal sets the wish back and is told.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    drivers::{Progress, Sight},
    error::{Error, Outcome},
    house::{House, Verdict},
    journal::contended,
    model::{Volume, VolumeState},
    ops::{Context, ModifyVolume, VolumeView},
    ports::backend::{Description, Parameter},
};

impl House {
    pub(crate) async fn modify(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &ModifyVolume,
    ) -> Result<Outcome<VolumeView>, Error> {
        let catalog = self.catalog();
        let wished = &wish.parameters;
        let record = |volume: &mut Volume, _: bool| {
            allowed(&catalog.backend(&volume.backend)?.describe(), volume, wished)?;
            require_quiet(volume, wished)?;
            volume.wanted.parameters.extend(wished.clone());
            Ok(volume.wants_modify())
        };
        let goal = |progress: &Progress, failure: Option<&Error>| modified(progress, failure, wished);
        self.change_ready(ctx, &wish.volume, record, &["modify"], goal).await
    }
}

/// Refuses what the backend does not change, by name, with what it does.
fn allowed(
    description: &Description,
    volume: &Volume,
    wished: &BTreeMap<String, String>,
) -> Result<(), Error> {
    if !description.abilities.modify {
        return Err(Error::unsupported(format!(
            "the backend {} cannot change the parameters of existing volumes: make another volume as a copy of this \
             one",
            volume.backend
        )));
    }
    if wished.is_empty() {
        return Err(Error::invalid(format!("say what to change: {}", list(&description.parameters))));
    }
    for name in wished.keys() {
        match description.parameters.iter().find(|parameter| parameter.name == *name) {
            Some(parameter) if parameter.mutable => {}
            Some(_) => {
                return Err(Error::invalid(format!(
                    "the parameter {name:?} is set when a volume is made and cannot be changed: {}",
                    list(&description.parameters)
                )));
            }
            None => {
                return Err(Error::invalid(format!(
                    "the backend {} knows no parameter {name:?}: {}",
                    volume.backend,
                    list(&description.parameters)
                )));
            }
        }
    }
    Ok(())
}

fn list(parameters: &[Parameter]) -> String {
    let names: Vec<&str> = parameters.iter().filter(|one| one.mutable).map(|one| one.name.as_str()).collect();
    match names.is_empty() {
        true => "there is none that can be".to_owned(),
        false => format!("what can be changed is {}", names.join(", ")),
    }
}

/// One change at a time: what a backend said of one must not be asked of another, and what may have happened
/// must not be forgotten by wishing it back.
fn require_quiet(volume: &Volume, wished: &BTreeMap<String, String>) -> Result<(), Error> {
    let busy = |what: &str| Err(Error::busy(format!("{what}: try again when that is done, or failed")));
    if volume.wants_growth() {
        return busy("it is being grown");
    }
    if !volume.wants_modify() {
        return Ok(());
    }
    let differs = |(name, value): (&String, &String)| volume.wanted.parameters.get(name) != Some(value);
    if wished.iter().any(differs) { busy("other changes of its parameters are under way") } else { Ok(()) }
}

/// A modify's goal: what was wished is in force, or was refused.
fn modified(
    progress: &Progress,
    failure: Option<&Error>,
    wished: &BTreeMap<String, String>,
) -> Verdict<VolumeView> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    let Some(volume) = family.volume.as_ref().filter(|volume| volume.state == VolumeState::Ready) else {
        return Verdict::Answer(Err(Error::not_found("it was removed by somebody else meanwhile")));
    };
    if volume.wants_modify() {
        return Verdict::Wait;
    }
    if wished.iter().all(|(name, value)| volume.actual_parameters.get(name) == Some(value)) {
        return Verdict::Answer(family.view().ok_or_else(contended));
    }
    // The wish was taken back.
    Verdict::Answer(Err(failure.cloned().unwrap_or_else(contended)))
}
