//! Granted command lines in memory: a test says what stands in for the programs, and can cut the component off, or
//! let somebody else act, at any command.
//!
//! ```
//! use std::{cell::RefCell, rc::Rc};
//!
//! use kato_plugin_sdk::{
//!     commands::{Commands, Output},
//!     testing::{Cut, Holes, MemoryCommands, Program},
//!     types::Error,
//! };
//!
//! struct Echo;
//!
//! impl Program for Echo {
//!     fn run(&mut self, _: &str, holes: &Holes) -> Result<Output, Error> {
//!         Ok(Output { status: 0, stdout: holes["text"].clone(), stderr: String::new() })
//!     }
//! }
//!
//! let commands = MemoryCommands::new(Rc::new(RefCell::new(Echo)));
//! assert_eq!(commands.run("echo", &[("text", "hello")]).unwrap().stdout, "hello");
//! commands.cut(Cut::After(1));
//! assert!(commands.run("echo", &[("text", "hello")]).is_err());
//! assert_eq!(commands.taken(), ["echo"]);
//! ```

use std::{cell::RefCell, collections::BTreeMap, fmt, rc::Rc};

use super::reach::{Cut, Meanwhile, Reach, away};
use crate::{
    commands::{Commands, Output},
    types::Error,
};

/// What fills the holes of a command line.
pub type Holes = BTreeMap<String, String>;

/// What stands in for the granted programs.
pub trait Program {
    /// Runs a command line as a whole.
    fn run(&mut self, name: &str, holes: &Holes) -> Result<Output, Error>;

    /// Runs one that is killed in its midst.
    fn half(&mut self, name: &str, holes: &Holes) {
        let _ = (name, holes);
    }
}

/// Granted command lines in memory. Its clones run the same programs.
#[derive(Clone)]
pub struct MemoryCommands(Rc<RefCell<State>>);

struct State {
    program: Rc<RefCell<dyn Program>>,
    run: Vec<String>,
    cut: Option<Cut>,
    meanwhile: Option<Meanwhile>,
}

impl fmt::Debug for MemoryCommands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.borrow();
        f.debug_struct("MemoryCommands")
            .field("run", &state.run)
            .field("cut", &state.cut)
            .finish_non_exhaustive()
    }
}

impl MemoryCommands {
    /// Command lines that this program answers.
    #[must_use]
    pub fn new(program: Rc<RefCell<dyn Program>>) -> Self {
        Self(Rc::new(RefCell::new(State { program, run: Vec::new(), cut: None, meanwhile: None })))
    }

    /// Cuts the component off.
    pub fn cut(&self, cut: Cut) {
        let mut state = self.0.borrow_mut();
        state.run.clear();
        state.cut = Some(cut);
    }

    /// Takes the cut away.
    pub fn mend(&self) {
        self.0.borrow_mut().cut = None;
    }

    /// Lets somebody else act just before the n-th command from now.
    pub fn meanwhile(&self, command: u64, act: impl FnOnce() + 'static) {
        let mut state = self.0.borrow_mut();
        state.run.clear();
        state.meanwhile = Some(Meanwhile(command, Box::new(act)));
    }

    /// Whether nobody acted yet who was to act meanwhile; nobody will any more.
    #[must_use]
    pub fn undisturbed(&self) -> bool {
        self.0.borrow_mut().meanwhile.take().is_some()
    }

    /// The names of the commands since this was asked last, or since the last cut; those that were cut off too.
    #[must_use]
    pub fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut().run)
    }
}

impl Commands for MemoryCommands {
    fn run(&self, name: &str, holes: &[(&str, &str)]) -> Result<Output, Error> {
        let other = {
            let mut state = self.0.borrow_mut();
            state.run.push(name.to_owned());
            let now = state.run.len() as u64;
            state.meanwhile.take_if(|meanwhile| meanwhile.0 == now)
        };
        if let Some(Meanwhile(_, act)) = other {
            act();
        }
        let (program, reach) = {
            let state = self.0.borrow();
            (state.program.clone(), Reach::of(state.cut, state.run.len() as u64))
        };
        let holes = holes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut program = program.borrow_mut();
        match reach {
            Reach::Nothing => Err(away()),
            Reach::Half => {
                program.half(name, &holes);
                Err(away())
            }
            Reach::Unheard => program.run(name, &holes).and_then(|_| Err(away())),
            Reach::All => program.run(name, &holes),
        }
    }
}
