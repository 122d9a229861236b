//! Programs that the operator granted. The grant names whole command lines with typed holes; a backend picks
//! one by its name and fills the holes.

use crate::{types::Error, worlds::commands::kato::storage::commands};

pub use commands::Output;

/// Runs the command line that is granted under this name, with its holes filled.
pub fn run(name: &str, holes: &[(&str, &str)]) -> Result<Output, Error> {
    let holes: Vec<_> = holes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    commands::run(name, &holes)
}
