//! Whether an answer fits its question. A plugin that lies, by malice or by a bug, could have the house hand
//! one tenant's volume to another, so what can be told apart here is told apart: another token than was
//! asked for, another handle than was named, one handle for two wishes, a size outside of the range.

use std::collections::{BTreeMap, VecDeque};

use kato_orchestrator::{
    model::{CapacityRange, Handle, Token},
    ports::backend::{Made, Shot, Which},
};

use super::convert::Lie;

/// What volumes and snapshots have in common.
pub(crate) trait Named {
    fn handle(&self) -> &Handle;
    fn token(&self) -> Option<&Token>;
}

impl Named for Made {
    fn handle(&self) -> &Handle {
        &self.handle
    }
    fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }
}

impl Named for Shot {
    fn handle(&self) -> &Handle {
        &self.handle
    }
    fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }
}

/// Whether this is the thing that was made under this token.
pub(crate) fn made(thing: &impl Named, token: &Token) -> Result<(), Lie> {
    match thing.token() {
        Some(other) if other != token => {
            Err(format!("it was asked for the token {token} and answered with a thing of the token {other}"))
        }
        _ => Ok(()),
    }
}

/// Whether this is the thing that was asked for.
pub(crate) fn found(thing: &impl Named, which: &Which) -> Result<(), Lie> {
    made(thing, &which.token)?;
    match &which.handle {
        Some(handle) if handle != thing.handle() => {
            Err(format!("it was asked for the handle {handle} and answered with {}", thing.handle()))
        }
        _ => Ok(()),
    }
}

/// Whether a snapshot is of the volume that it was to be of: another tenant's data would be handed out else.
pub(crate) fn source(answered: Option<&str>, asked: &Which) -> Result<(), Lie> {
    match (answered, &asked.handle) {
        (Some(other), Some(handle)) if other != handle.as_str() => {
            Err(format!("it was asked for a snapshot of {handle} and cut one of {}", other.escape_debug()))
        }
        _ => Ok(()),
    }
}

/// Whether a volume is as large as it was asked to be.
pub(crate) fn sized(made: &Made, range: CapacityRange) -> Result<(), Lie> {
    if range.admits(made.size) {
        return Ok(());
    }
    let limit = range.limit.map_or_else(|| "any size".to_owned(), |limit| limit.to_string());
    Err(format!("it was asked for {} to {limit} and answered with a volume of {}", range.required, made.size))
}

/// Whether a list answers as many things as were asked for.
pub(crate) fn counted(answered: usize, asked: usize) -> Result<(), Lie> {
    if answered == asked {
        Ok(())
    } else {
        Err(format!("it was asked for {asked} things and answered {answered}"))
    }
}

/// Which token each handle was last answered for. It forgets the oldest: it is here to catch a plugin that
/// gives one handle to two wishes, and no second copy of the records.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    tokens: BTreeMap<Handle, Token>,
    order: VecDeque<Handle>,
}

impl Handles {
    const KEPT: usize = 4096;

    /// The other token that this handle was answered for.
    pub(crate) fn other(&self, handle: &Handle, token: &Token) -> Option<Token> {
        self.tokens.get(handle).filter(|known| *known != token).cloned()
    }

    pub(crate) fn keep(&mut self, handle: &Handle, token: &Token) {
        if self.tokens.insert(handle.clone(), token.clone()).is_none() {
            self.order.push_back(handle.clone());
        }
        while self.order.len() > Self::KEPT {
            if let Some(oldest) = self.order.pop_front() {
                self.tokens.remove(&oldest);
            }
        }
    }

    pub(crate) fn forget(&mut self, token: &Token) {
        self.tokens.retain(|_, known| known != token);
        self.order.retain(|handle| self.tokens.contains_key(handle));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_remembered_until_its_thing_is_deleted() {
        let mut handles = Handles::default();
        let (a, b) = (Token::parse("a").unwrap(), Token::parse("b").unwrap());
        let handle = Handle::parse("vol-1").unwrap();
        handles.keep(&handle, &a);
        assert_eq!(handles.other(&handle, &a), None);
        assert_eq!(handles.other(&handle, &b), Some(a.clone()));
        handles.forget(&a);
        assert_eq!(handles.other(&handle, &b), None);
        for number in 0..Handles::KEPT + 10 {
            handles.keep(&Handle::parse(&number.to_string()).unwrap(), &a);
        }
        assert_eq!(handles.tokens.len(), Handles::KEPT);
    }
}
