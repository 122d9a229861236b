//! Whether an answer fits its question. A plugin that lies, by malice or by a bug, could have the house hand
//! one tenant's volume to another, so what can be told apart here is told apart: another token than was
//! asked for, another handle than was named, one handle or one connection for two wishes, a size outside of the
//! range.

use std::collections::{BTreeMap, VecDeque};

use kato_orchestrator::{
    model::{Bytes, CapacityRange, Connection, Handle, Token},
    ports::{
        backend::{Made, Shot, Which},
        extents::ExtentPage,
    },
};

use super::convert::Lie;
use crate::limits;

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

/// Whether a page of extents can be true of a snapshot of this size that was asked for from this offset on, and whether
/// it leads on: whoever copies by it would copy the wrong bytes, or for ever.
pub(crate) fn extents(page: &ExtentPage, size: Bytes, from: Bytes) -> Result<(), Lie> {
    if page.extents.len() > limits::ITEMS {
        return Err(format!("a page has {} extents, and {} are allowed", page.extents.len(), limits::ITEMS));
    }
    let mut at = from.0;
    for extent in &page.extents {
        let (start, length) = (extent.offset.0, extent.length.0);
        let end = start.checked_add(length).filter(|end| length > 0 && *end <= size.0);
        let Some(end) = end else {
            return Err(format!(
                "an extent of {length} bytes at {start} is none of a snapshot of {} bytes",
                size.0
            ));
        };
        if start < at {
            return Err(format!(
                "an extent begins at {start}, before {at}, where it may begin at the earliest"
            ));
        }
        at = end;
    }
    match page.next {
        Some(next) if next <= from || next.0 < at || next > size => Err(format!(
            "the next page begins at {}, and has to lie behind {} and what is on this one, and within {} bytes",
            next.0, from.0, size.0
        )),
        _ => Ok(()),
    }
}

/// What a volume is told apart by: its handle, and the way to its bytes where it has one of its own.
pub(crate) fn marks(made: &Made) -> impl Iterator<Item = String> {
    std::iter::once(format!("the handle {}", made.handle)).chain(made.connection.as_ref().map(way))
}

/// A way to a volume's bytes, as a mark. A unit behind iSCSI is the same by whichever portals it is reached.
pub(crate) fn way(connection: &Connection) -> String {
    match connection {
        Connection::Iscsi { iqn, lun, .. } => format!("the unit {lun} of the target {iqn:?}"),
        other => format!("the connection {other:?}"),
    }
}

/// Which token each handle and connection was last answered for. It forgets the oldest: it is here to catch a
/// plugin that gives one of them to two wishes, and no second copy of the records.
#[derive(Debug, Default)]
pub(crate) struct Given {
    tokens: BTreeMap<String, Token>,
    order: VecDeque<String>,
}

impl Given {
    const KEPT: usize = 8192;

    /// The other token that this was answered for.
    pub(crate) fn other(&self, mark: &str, token: &Token) -> Option<Token> {
        self.tokens.get(mark).filter(|known| *known != token).cloned()
    }

    pub(crate) fn keep(&mut self, mark: String, token: &Token) {
        if self.tokens.insert(mark.clone(), token.clone()).is_none() {
            self.order.push_back(mark);
        }
        while self.order.len() > Self::KEPT {
            if let Some(oldest) = self.order.pop_front() {
                self.tokens.remove(&oldest);
            }
        }
    }

    pub(crate) fn forget(&mut self, token: &Token) {
        self.tokens.retain(|_, known| known != token);
        self.order.retain(|mark| self.tokens.contains_key(mark));
    }
}

#[cfg(test)]
mod tests {
    use kato_orchestrator::ports::extents::Extent;

    use super::*;

    #[test]
    fn extents_ascend_within_the_snapshot_and_lead_on() {
        let page = |extents: &[(u64, u64)], next: Option<u64>| {
            let extent =
                |(offset, length): &(u64, u64)| Extent { offset: Bytes(*offset), length: Bytes(*length) };
            let page = ExtentPage { extents: extents.iter().map(extent).collect(), next: next.map(Bytes) };
            super::extents(&page, Bytes(100), Bytes(10))
        };
        for (extents, next) in [
            (&[][..], None),
            (&[], Some(11)),
            (&[(10, 5), (15, 1), (90, 10)], None),
            (&[(10, 5)], Some(15)),
            (&[(10, 90)], Some(100)),
        ] {
            assert_eq!(page(extents, next), Ok(()), "{extents:?} {next:?}");
        }
        for (extents, next) in [
            (&[(9, 5)][..], None),
            (&[(10, 0)], None),
            (&[(10, 91)], None),
            (&[(100, 1)], None),
            (&[(u64::MAX, 2)], None),
            (&[(20, 5), (24, 1)], None),
            (&[(20, 5), (10, 1)], None),
            (&[], Some(10)),
            (&[], Some(9)),
            (&[], Some(101)),
            (&[(20, 5)], Some(24)),
        ] {
            assert!(page(extents, next).is_err(), "{extents:?} {next:?}");
        }
        assert!(page(&vec![(20, 1); limits::ITEMS + 1], None).is_err());
    }

    #[test]
    fn a_unit_is_the_same_by_every_portal() {
        let unit = |portal: &str, lun| Connection::Iscsi {
            backend: "cloud".into(),
            portals: vec![portal.into()],
            iqn: "iqn.2026-01.x:a".into(),
            lun,
            multipath: None,
            initiator: None,
        };
        assert_eq!(way(&unit("10.0.0.1:3260", 1)), way(&unit("10.0.0.2:3260", 1)));
        assert_ne!(way(&unit("10.0.0.1:3260", 1)), way(&unit("10.0.0.1:3260", 2)));
    }

    #[test]
    fn a_handle_is_remembered_until_its_thing_is_deleted() {
        let mut given = Given::default();
        let (a, b) = (Token::parse("a").unwrap(), Token::parse("b").unwrap());
        given.keep("vol-1".into(), &a);
        assert_eq!(given.other("vol-1", &a), None);
        assert_eq!(given.other("vol-1", &b), Some(a.clone()));
        given.forget(&a);
        assert_eq!(given.other("vol-1", &b), None);
        for number in 0..Given::KEPT + 10 {
            given.keep(number.to_string(), &a);
        }
        assert_eq!(given.tokens.len(), Given::KEPT);
    }
}
