//! A component that does whatever the key `behave` of its configuration says. `honest` is a backend with
//! one volume per token and no memory; everything else is an attack, a bug or a lie that the sandbox suite
//! shows to be harmless. The attack happens in `create`; what `inspect` then says is `present`'s to choose.

mod attack;
mod leak;
mod raw;
mod request;

use kato_plugin_sdk::{
    attachments, extents, grow, identity, modify, polling, snapshots,
    types::{
        CapacityRange, Configuration, Connection, Cutting, Device, Error, Extent, ExtentPage, Node, Pair,
        Pending, SnapshotPage, Volume, VolumePage, Which,
    },
    volumes,
};

struct Hostile;

kato_plugin_sdk::export!(Hostile with attachments, extents, grow, modify, polling, snapshots);

/// A value of the configuration.
fn value<'a>(configuration: &'a [Pair], name: &str) -> &'a str {
    configuration.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
}

/// The volume that an honest backend has under a token.
fn honest(token: &str, size: u64) -> Volume {
    Volume {
        handle: format!("vol-{token}"),
        size_bytes: size,
        mark: String::new(),
        token: Some(token.to_owned()),
        connection: None,
        attached: None,
        topology: Vec::new(),
        parameters: None,
    }
}

impl identity::Guest for Hostile {
    fn describe(configuration: Configuration) -> Result<identity::Description, Error> {
        if value(&configuration, "behave") == "mistaken" {
            return Err(Error::invalid("`region` is missing"));
        }
        Ok(identity::Description {
            name: "hostile".into(),
            version: "0.1.0".into(),
            summary: "none of it good".into(),
            min_size_bytes: 1,
            max_size_bytes: 0,
            size_step_bytes: 1,
            settle_ms: 1000,
            blank: identity::Blankness::Zeroes,
            parameters: mutable(value(&configuration, "mutable")),
            grow: Some(identity::Growing::Online),
            snapshots: true,
            clone: true,
            snapshot_needs_volume: false,
            clone_needs_source: false,
        })
    }

    fn check(configuration: Configuration) -> Result<identity::Status, Error> {
        leak::check(&configuration)
    }
}

impl volumes::Guest for Hostile {
    fn create(
        configuration: Configuration,
        wish: volumes::Wish,
        resume: Option<Vec<u8>>,
    ) -> Result<volumes::Created, Error> {
        match value(&configuration, "behave") {
            "slow" if resume.as_deref() != Some(&[0]) => Ok(volumes::Created::Pending(attack::at_work(3))),
            "replay" => Ok(attack::replay(&configuration, wish, resume)),
            _ => attack::create(&configuration, wish),
        }
    }

    fn delete(
        configuration: Configuration,
        _which: Which,
        _resume: Option<Vec<u8>>,
    ) -> Result<volumes::Deleted, Error> {
        match value(&configuration, "behave") {
            "keep" => Err(Error::in_use("something holds it")),
            _ => Ok(volumes::Deleted::Done),
        }
    }

    fn inspect(configuration: Configuration, which: Vec<Which>) -> Result<Vec<Option<Volume>>, Error> {
        let mut found: Vec<_> = which
            .iter()
            .map(|which| match value(&configuration, "present") {
                "yes" => Some(honest(&which.token, 1 << 20)),
                "other" => Some(honest("another-token", 1 << 20)),
                _ => None,
            })
            .collect();
        if let Some((_, nodes)) = configuration.iter().find(|(key, _)| key == "attached") {
            let nodes: Vec<_> = nodes.split_whitespace().map(str::to_owned).collect();
            found.iter_mut().flatten().for_each(|volume| volume.attached = Some(nodes.clone()));
        }
        match value(&configuration, "behave") {
            "blind" => return Err(Error::unavailable("the cloud is down")),
            "short" => drop(found.pop()),
            _ => {}
        }
        Ok(found)
    }

    fn list(configuration: Configuration, page: Option<String>) -> Result<VolumePage, Error> {
        Ok(match value(&configuration, "behave") {
            "endless" => VolumePage { items: Vec::new(), next: page.or(Some("again".into())) },
            "leak" => VolumePage { items: Vec::new(), next: Some(value(&configuration, "leak").into()) },
            "long-page" => {
                let items = (0..10_001).map(|number| honest(&number.to_string(), 1)).collect();
                VolumePage { items, next: None }
            }
            _ => VolumePage { items: vec![honest("one", 1 << 20)], next: None },
        })
    }

    fn remark(_configuration: Configuration, _which: Which, _mark: String) -> Result<(), Error> {
        Ok(())
    }
}

impl polling::Guest for Hostile {
    /// The first byte of `resume` says how many polls are left, whatever is waited for.
    fn poll(
        configuration: Configuration,
        askings: Vec<polling::Asking>,
    ) -> Result<Vec<polling::Standing>, Error> {
        let standing = |asking: polling::Asking| match asking.resume.first() {
            Some(&left) if left > 0 => polling::Standing::Still(attack::at_work(left - 1)),
            _ => polling::Standing::Ready,
        };
        let mut standings: Vec<_> = askings.into_iter().map(standing).collect();
        match value(&configuration, "poll") {
            "short" => drop(standings.pop()),
            "long" => standings.push(polling::Standing::Ready),
            "fat" => {
                standings =
                    vec![polling::Standing::Still(Pending { resume: vec![0; 4097], ..attack::at_work(1) })]
            }
            "refuse" => return Err(Error::invalid("polls are not for me")),
            "panic" => panic!("no polls today"),
            _ => {}
        }
        Ok(standings)
    }
}

impl attachments::Guest for Hostile {
    fn attach(
        configuration: Configuration,
        which: Which,
        _node: Node,
        _read_only: bool,
        _resume: Option<Vec<u8>>,
    ) -> Result<attachments::Attaching, Error> {
        if value(&configuration, "behave") == "refuse" {
            return Err(Error::exhausted("no slot is free"));
        }
        // `identity value`, or a device of its own for every volume.
        let argument = match value(&configuration, "argument") {
            "" => format!("wwid naa.{}", which.token),
            argument => argument.to_owned(),
        };
        let (identity, value_of) = argument.split_once(' ').unwrap_or((&argument, ""));
        let connection = Connection::Device(Device { identity: identity.into(), value: value_of.into() });
        let client = Some(value(&configuration, "client").to_owned()).filter(|client| !client.is_empty());
        Ok(attachments::Attaching::Done(attachments::Attached { connection, client }))
    }

    fn detach(
        configuration: Configuration,
        _which: Which,
        _node: Node,
        _resume: Option<Vec<u8>>,
    ) -> Result<attachments::Detaching, Error> {
        match value(&configuration, "behave") {
            "refuse" => Err(Error::in_use("the node holds on to it")),
            _ => Ok(attachments::Detaching::Done),
        }
    }
}

impl grow::Guest for Hostile {
    fn grow(
        configuration: Configuration,
        _which: Which,
        size: CapacityRange,
        _resume: Option<Vec<u8>>,
    ) -> Result<grow::Grown, Error> {
        Ok(grow::Grown::Done(match value(&configuration, "behave") {
            "shrink" => 1,
            _ => size.required_bytes,
        }))
    }
}

/// Parameters that can be changed, as they are written: `name=default` for each.
fn mutable(text: &str) -> Vec<identity::Parameter> {
    let parameter = |word: &str| {
        let (name, default) = word.split_once('=')?;
        Some(identity::Parameter {
            name: name.into(),
            summary: "as it is wished".into(),
            default: default.into(),
            shape: "text".into(),
            mutable: true,
        })
    };
    text.split_whitespace().filter_map(parameter).collect()
}

impl modify::Guest for Hostile {
    fn modify(
        _configuration: Configuration,
        _which: Which,
        _parameters: Vec<Pair>,
        _resume: Option<Vec<u8>>,
    ) -> Result<modify::Modified, Error> {
        Ok(modify::Modified::Done)
    }
}

impl extents::Guest for Hostile {
    fn allocated(configuration: Configuration, _: Which, _: u64) -> Result<ExtentPage, Error> {
        page(value(&configuration, "argument"))
    }

    fn changed(configuration: Configuration, _: Which, _: Which, _: u64) -> Result<ExtentPage, Error> {
        page(value(&configuration, "argument"))
    }
}

/// A page as it is written: `offset+length` for each extent, a number for where the next page begins, `x1000` for as many
/// extents.
fn page(text: &str) -> Result<ExtentPage, Error> {
    let number = |text: &str| text.parse().map_err(|_| Error::internal(format!("{text} is no number")));
    let mut page = ExtentPage { extents: Vec::new(), next_bytes: None };
    for word in text.split_whitespace() {
        if let Some(count) = word.strip_prefix('x') {
            let extent = |offset| Extent { offset_bytes: offset, length_bytes: 1 };
            page.extents = (0..number(count)?).map(extent).collect();
        } else if let Some((offset, length)) = word.split_once('+') {
            page.extents.push(Extent { offset_bytes: number(offset)?, length_bytes: number(length)? });
        } else {
            page.next_bytes = Some(number(word)?);
        }
    }
    Ok(page)
}

impl snapshots::Guest for Hostile {
    fn how(_configuration: Configuration, _volume: Which) -> Result<Cutting, Error> {
        Ok(Cutting::Instant)
    }

    fn cut(
        _configuration: Configuration,
        _wish: snapshots::Wish,
        _resume: Option<Vec<u8>>,
    ) -> Result<snapshots::CutAnswer, Error> {
        Err(Error::exhausted("no room for snapshots"))
    }

    fn delete(
        _configuration: Configuration,
        _which: Which,
        _resume: Option<Vec<u8>>,
    ) -> Result<snapshots::Deleting, Error> {
        Ok(snapshots::Deleting::Done)
    }

    fn inspect(
        _configuration: Configuration,
        which: Vec<Which>,
    ) -> Result<Vec<Option<kato_plugin_sdk::types::Snapshot>>, Error> {
        Ok(which.iter().map(|_| None).collect())
    }

    fn list(_configuration: Configuration, _page: Option<String>) -> Result<SnapshotPage, Error> {
        Ok(SnapshotPage { items: Vec::new(), next: None })
    }
}
