//! Programs that the operator granted. The grant names whole command lines with typed holes; a backend picks
//! one by its name and fills the holes.
//!
//! Logic that is to be tested takes [`Commands`]; in a component that is [`Granted`], in a test it is
//! `testing::MemoryCommands`.

use crate::{types::Error, worlds::commands::kato::storage::commands};

pub use commands::Output;

/// What can be done with command lines.
pub trait Commands {
    /// Runs the command line that is granted under this name, with its holes filled. An error means that it was
    /// not run, or that nobody knows how it ended; a program that ended is an answer, whatever its status.
    fn run(&self, name: &str, holes: &[(&str, &str)]) -> Result<Output, Error>;
}

/// The command lines that are granted, through the host.
#[derive(Clone, Copy, Debug)]
pub struct Granted;

impl Commands for Granted {
    fn run(&self, name: &str, holes: &[(&str, &str)]) -> Result<Output, Error> {
        run(name, holes)
    }
}

/// Runs the command line that is granted under this name, with its holes filled.
pub fn run(name: &str, holes: &[(&str, &str)]) -> Result<Output, Error> {
    let holes: Vec<_> = holes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    commands::run(name, &holes)
}
