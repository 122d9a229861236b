//! How much room there is for volumes of a class, somewhere.

use std::collections::BTreeMap;

use crate::{
    error::Error,
    house::House,
    model::{Bytes, Volume},
    ops::{AskRoom, RoomView},
    ports::backend::Abilities,
};

impl House {
    pub(crate) async fn room(&self, wish: &AskRoom) -> Result<RoomView, Error> {
        let class = self.catalog().class(wish.class.as_ref())?;
        let backend = self.backend(&class.backend).await?;
        let description = backend.describe();
        let max = [class.max_size, description.max_size].into_iter().flatten().min();
        let none = RoomView { available: Bytes(0), min: description.min_size, max };
        if !wish.place.is_empty() && !self.is_here(&description.abilities, &wish.place) {
            return Ok(none);
        }
        let Some(extras) = backend.extras().filter(|_| description.abilities.capacity) else {
            return Err(Error::unsupported(format!(
                "the backend {} does not tell how much room there is",
                class.backend
            )));
        };
        let mut parameters = class.parameters.clone();
        parameters.extend(wish.parameters.clone());
        let room = extras.room(parameters).await?;
        Ok(RoomView { available: room.available, ..none })
    }

    /// Whether a backend's volumes can be used at a place. What lies on this node is used here alone; of the others
    /// their backend knows.
    pub(crate) fn is_here(&self, abilities: &Abilities, place: &BTreeMap<String, String>) -> bool {
        !abilities.node_bound
            || place.iter().all(|(word, value)| match word.as_str() {
                Volume::SEAT => value == self.node().as_str(),
                word => self.config.topology.get(word).is_none_or(|here| here == value),
            })
    }

    /// Where a volume may be used, as its backend says, or as follows from where it lies.
    pub(crate) fn places_of(
        &self,
        abilities: &Abilities,
        told: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        match abilities.node_bound && told.is_empty() {
            true => BTreeMap::from([(Volume::SEAT.to_owned(), self.node().as_str().to_owned())]),
            false => told.clone(),
        }
    }
}
