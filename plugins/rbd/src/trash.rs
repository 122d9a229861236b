//! What leaves the pool by way of the trash. A volume with snapshots cannot be removed, so it is moved there and goes
//! when the last of them goes; and one that its owner wants kept lies there for some days. Nobody tells when an image in
//! the trash is needed no longer, so whoever deletes something that may have been the last to need one tries a few. What
//! is tried too early is refused by Ceph, which loses nothing.

use kato_plugin_sdk::{
    commands::Commands,
    log,
    types::{Error, ErrorKind},
};

use crate::{
    answers::Trashed,
    api::Pool,
    clock,
    error::{ABSENT, HOLDS_SNAPSHOTS, WATCHED},
    names::{self, Token},
};

/// How many images in the trash are tried at once.
const TRIES: usize = 8;

/// Moves an image to the trash, and asks that it stays there for so many days; one that is not there is moved.
pub(crate) fn bury<C: Commands>(pool: &Pool<C>, name: &str, days: u64) -> Result<(), Error> {
    let doing = format!("moving the image {name} to the trash");
    if days == 0 {
        return pool.change("rbd-trash", &[("image", name)], &[ABSENT], &doing).map(drop);
    }
    let date = clock::date(clock::now(), days);
    pool.change("rbd-trash-until", &[("image", name), ("date", &date)], &[ABSENT], &doing).map(drop)
}

/// Moves an image back that was taken out for a clone. Its days begin anew.
pub(crate) fn put_back<C: Commands>(pool: &Pool<C>, id: &str) -> Result<(), Error> {
    let name = names::gone(id);
    match pool.marks(&name)? {
        Some(marks) => bury(pool, &name, marks.days()),
        None => Ok(()),
    }
}

/// Removes a snapshot; one that clones need goes with the last of them.
pub(crate) fn remove_cut<C: Commands>(pool: &Pool<C>, id: &str, cut: &str) -> Result<bool, Error> {
    let doing = format!("removing the snapshot {cut}");
    Ok(pool.change("rbd-remove-snapshot", &[("id", id), ("snapshot", cut)], &[ABSENT], &doing)? == 0)
}

/// Removes an image from the trash; false while something needs it.
pub(crate) fn purge<C: Commands>(pool: &Pool<C>, id: &str) -> Result<bool, Error> {
    let fine = [ABSENT, WATCHED, HOLDS_SNAPSHOTS];
    let ended = pool.change("rbd-purge", &[("id", id)], &fine, "removing an image from the trash")?;
    Ok(matches!(ended, 0 | ABSENT))
}

/// Removes an image from the trash if nothing but what a clone was made from is left of it.
pub(crate) fn clear<C: Commands>(pool: &Pool<C>, id: &str) -> Result<bool, Error> {
    let Some(cuts) = pool.cuts(id)? else { return Ok(true) };
    let (origins, others): (Vec<_>, Vec<_>) =
        cuts.into_iter().partition(|cut| cut.live && names::is_origin(&cut.name));
    for origin in origins {
        remove_cut(pool, id, &origin.name)?;
    }
    if !others.is_empty() {
        return Ok(false);
    }
    purge(pool, id)
}

/// Tries to remove what of ours is in the trash and need not be kept, this image first. What is not removed now is
/// another time.
pub(crate) fn sweep<C: Commands>(pool: &Pool<C>, first: Option<&str>) {
    let ours = |one: &Trashed| one.over && (names::is_ours(&one.name) || one.name == names::gone(&one.id));
    let mut entries = match pool.trash() {
        Ok(trash) => trash.into_iter().filter(ours).collect::<Vec<_>>(),
        Err(error) => return postponed(&error),
    };
    if let Some(offset) = usize::try_from(clock::now()).ok().and_then(|now| now.checked_rem(entries.len())) {
        // Those that are needed for long must not hide the others.
        entries.rotate_left(offset);
        entries.sort_by_key(|entry| first != Some(entry.id.as_str()));
    }
    let mut tries = TRIES;
    loop {
        let before = entries.len();
        entries.retain(|entry| {
            let tried = tries > 0;
            tries = tries.saturating_sub(1);
            match tried.then(|| cleared(pool, &entry.id)).transpose() {
                Ok(cleared) => cleared != Some(true),
                Err(error) => {
                    // One that takes longer than a command may is gone on with by whoever sweeps next.
                    postponed(&error);
                    tries = 0;
                    true
                }
            }
        });
        // With each that went, another may have become free.
        if tries == 0 || entries.len() == before {
            break;
        }
    }
}

fn cleared<C: Commands>(pool: &Pool<C>, id: &str) -> Result<bool, Error> {
    Ok(purge(pool, id)? || clear(pool, id)?)
}

/// Takes away what was made for a volume that is not there, and puts back what somebody took out of the trash and left.
pub(crate) fn tidy<C: Commands>(pool: &Pool<C>, token: &Token) {
    let tidied = pool.all().and_then(|all| {
        for listed in all {
            match listed.snapshot {
                Some(cut) if cut == token.origin() => drop(remove_cut(pool, &listed.id, &cut)?),
                None if listed.image == names::gone(&listed.id) => put_back(pool, &listed.id)?,
                _ => {}
            }
        }
        Ok(())
    });
    if let Err(error) = tidied {
        postponed(&error);
    }
}

pub(crate) fn postponed(error: &Error) {
    let message = format!("the trash was left for later: {}", error.message);
    match error.kind {
        ErrorKind::PermissionDenied => log::warn(message),
        _ => log::info(message),
    }
}
