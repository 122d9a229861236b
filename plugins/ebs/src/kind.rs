//! The types of volumes, with what each can be and have. The figures are those of EC2's service model; what a machine or
//! a quota narrows, EC2 says itself.

use std::ops::RangeInclusive;

use kato_plugin_sdk::{capacity::Limits, types::Error};

pub(crate) const GIB: u64 = 1 << 30;

/// A type of volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// How large it can be, in GiB.
    sizes: (u64, u64),
    /// How many operations a second can be asked for, if any.
    iops: Option<(u64, u64)>,
    /// Whether they have to be.
    needs_iops: bool,
    /// How many MiB a second can be asked for, if any.
    throughput: Option<(u64, u64)>,
    /// Whether several machines can have it.
    pub(crate) shared: bool,
}

const fn plain(name: &'static str, sizes: (u64, u64)) -> Kind {
    Kind { name, sizes, iops: None, needs_iops: false, throughput: None, shared: false }
}

const fn provisioned(name: &'static str, most: u64, iops: u64) -> Kind {
    Kind { iops: Some((100, iops)), needs_iops: true, shared: true, ..plain(name, (4, most)) }
}

/// All of them, the usual one first.
pub(crate) const KINDS: [Kind; 7] = [
    Kind { iops: Some((3_000, 80_000)), throughput: Some((125, 2_000)), ..plain("gp3", (1, 65_536)) },
    plain("gp2", (1, 16_384)),
    provisioned("io1", 16_384, 64_000),
    provisioned("io2", 65_536, 256_000),
    plain("st1", (125, 16_384)),
    plain("sc1", (125, 16_384)),
    plain("standard", (1, 1_024)),
];

impl Kind {
    pub(crate) fn usual() -> Self {
        let [usual, ..] = KINDS;
        usual
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.name == name)
    }

    pub(crate) fn limits(self, default: u64) -> Limits {
        let (least, most) = self.sizes;
        Limits { min: least * GIB, max: Some(most * GIB), step: GIB, default }
    }

    pub(crate) fn largest(self) -> u64 {
        self.sizes.1 * GIB
    }

    /// Whether a volume of this type can be so large and so quick.
    pub(crate) fn check(self, gib: u64, iops: Option<u64>, throughput: Option<u64>) -> Result<(), Error> {
        let (least, most) = self.sizes;
        if !(least..=most).contains(&gib) {
            return Err(Error::out_of_range(format!(
                "a volume of type {} is {least} to {most} GiB large, and {gib} GiB are asked for",
                self.name
            )));
        }
        self.fits("iops", self.iops, iops)?;
        self.fits("throughput", self.throughput, throughput)
    }

    fn fits(self, what: &str, range: Option<(u64, u64)>, asked: Option<u64>) -> Result<(), Error> {
        let Some(asked) = asked else { return Ok(()) };
        match range.map(|(least, most)| least..=most) {
            Some(range) if range.contains(&asked) => Ok(()),
            Some(range) => {
                let (least, most): (u64, u64) = RangeInclusive::into_inner(range);
                Err(Error::invalid(format!(
                    "`{what}` is {asked}: a volume of type {} has {least} to {most}",
                    self.name
                )))
            }
            None => Err(Error::invalid(format!("`{what}` cannot be set for volumes of type {}", self.name))),
        }
    }

    pub(crate) fn needs_iops(self) -> bool {
        self.needs_iops
    }

    pub(crate) fn takes_iops(self) -> bool {
        self.iops.is_some()
    }

    pub(crate) fn takes_throughput(self) -> bool {
        self.throughput.is_some()
    }
}

#[cfg(test)]
mod tests {
    use kato_plugin_sdk::types::ErrorKind;

    use super::*;

    #[test]
    fn each_type_has_its_limits() {
        for (kind, gib, iops, throughput, good) in [
            ("gp3", 65_536, Some(80_000), Some(2_000), true),
            ("gp3", 1, Some(2_999), None, false),
            ("gp2", 16_385, None, None, false),
            ("gp2", 1, Some(100), None, false),
            ("io1", 4, Some(100), None, true),
            ("io1", 3, Some(100), None, false),
            ("io2", 65_536, Some(256_000), None, true),
            ("io2", 4, Some(100), Some(125), false),
            ("st1", 124, None, None, false),
            ("sc1", 125, None, None, true),
            ("standard", 1_025, None, None, false),
        ] {
            assert_eq!(Kind::of(kind).unwrap().check(gib, iops, throughput).is_ok(), good, "{kind} {gib}");
        }
        assert_eq!(Kind::usual().check(0, None, None).unwrap_err().kind, ErrorKind::OutOfRange);
        assert_eq!(Kind::of("gp9"), None);
    }
}
