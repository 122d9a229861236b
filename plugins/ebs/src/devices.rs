//! The name that a volume is attached by. On Nitro machines the system never sees it, but EC2 wants one that is free, and
//! some names stay taken for hours after a detachment that went wrong.

use std::collections::BTreeSet;

use crate::answers::Machine;

/// A device name that is free, as far as anybody knows: not the machine's, not in use on the node, not tried before; one
/// that lately failed only where there is no other. Where to begin looking depends on the volume, so that two that are
/// attached at the same time seldom choose the same.
pub(crate) fn choose(
    volume: &str,
    machine: &Machine,
    used: &[String],
    tried: &[String],
    failed: &[String],
) -> Option<String> {
    let names: Vec<String> =
        ('b'..='d').flat_map(|a| ('a'..='z').map(move |b| format!("xvd{a}{b}"))).collect();
    let own = machine.devices.iter().map(|(name, _)| name);
    let taken: BTreeSet<String> = own.chain(used).chain(tried).map(|name| spelt(name)).collect();
    let failed: BTreeSet<String> = failed.iter().map(|name| spelt(name)).collect();
    let begin =
        volume.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    let (before, after) = names.split_at(begin.checked_rem(names.len()).unwrap_or_default());
    let free: Vec<&String> = after.iter().chain(before).filter(|name| !taken.contains(*name)).collect();
    let name = free.iter().find(|name| !failed.contains(**name)).or_else(|| free.first())?;
    Some(format!("/dev/{name}"))
}

/// `/dev/sdb1` and `xvdb1` are one.
fn spelt(name: &str) -> String {
    let name = name.strip_prefix("/dev/").unwrap_or(name);
    match name.strip_prefix("sd") {
        Some(rest) => format!("xvd{rest}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(devices: &[&str]) -> Machine {
        let devices = devices.iter().map(|name| ((*name).to_owned(), String::new())).collect();
        Machine { state: "running".into(), devices }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_name_that_is_taken_anywhere_is_not_chosen() {
        let first = choose("vol-1", &machine(&[]), &[], &[], &[]).unwrap();
        let sd = first.replace("xvd", "sd");
        for (machine, used, tried) in [
            (machine(&[&first]), names(&[]), names(&[])),
            (machine(&[&sd]), names(&[]), names(&[])),
            (machine(&[]), names(&[&first]), names(&[])),
            (machine(&[]), names(&[&first.replace("/dev/", "")]), names(&[])),
            (machine(&[]), names(&[]), names(&[&first])),
        ] {
            assert_ne!(choose("vol-1", &machine, &used, &tried, &[]).unwrap(), first);
        }
        assert_ne!(choose("vol-1", &machine(&[]), &[], &[], &names(&[&first])).unwrap(), first);
    }

    #[test]
    fn what_failed_is_better_than_nothing_and_78_names_are_all() {
        let (mut machine, mut count) = (machine(&[]), 0);
        while let Some(name) = choose("vol-2", &machine, &[], &[], &names(&["/dev/xvdcc"])) {
            assert!(name.len() == 10 && name.starts_with("/dev/xvd"), "{name}");
            machine.devices.push((name, String::new()));
            count += 1;
        }
        assert_eq!((count, machine.devices.last().map(|last| last.0.as_str())), (78, Some("/dev/xvdcc")));
    }
}
