//! Who may reach a volume: claims, and cutting a node off.
//!
//! A claim is a lock of ours on the small object that maps an image's name to its id. It goes with the image, and Ceph
//! itself knows nothing of it: the image's own locks belong to whoever has it open, and taking one of those would keep
//! them from writing. A claim says which node may; a watch says who has the image open, as far as somebody with it open
//! is alive. Both are asked, because exclusive-lock is cooperative: two writers with it both write.
//!
//! Fencing is the cluster's blocklist. A client that is on it never writes again under its name, whatever it does, and
//! nobody takes an entry back. Only what a client is known by (address and nonce) is blocklisted, never a whole host.

use kato_plugin_sdk::{
    attachments::{Attached, Attaching, Detaching},
    commands::Commands,
    fencing::Fenced,
    types::{Error, ErrorKind, Node, Pending, Which},
};

use crate::{
    answers::Claims,
    api::Pool,
    clock, convert,
    error::{self, ABSENT},
    names::{self, Token},
};

/// How many days an entry of the blocklist has to last at least.
const LONG_ENOUGH: u64 = 365;
/// When to look again whether one that does not is over.
const SHORT_MS: u64 = 30_000;

/// The identity of a node that is a client of the cluster's.
const CLIENT: &str = "client";

/// Who has an image open and should not.
#[derive(Debug)]
pub(crate) struct Strangers {
    pub(crate) addresses: Vec<String>,
    /// Why some of them may be the cluster itself.
    unsure: Option<Error>,
}

/// Those of the watchers who are neither known nor the cluster's own.
pub(crate) fn strangers<C: Commands>(
    pool: &Pool<C>,
    watchers: Vec<String>,
    known: &[&str],
) -> Result<Strangers, Error> {
    let mut addresses = watchers;
    addresses.retain(|address| !known.contains(&address.as_str()));
    let mut unsure = None;
    if !addresses.is_empty() {
        match pool.mgr_clients() {
            Ok(own) => addresses.retain(|address| !own.contains(address)),
            Err(error) if error.kind == ErrorKind::PermissionDenied => unsure = Some(error),
            Err(error) => return Err(error),
        }
    }
    Ok(Strangers { addresses, unsure })
}

/// The nodes that have claimed a volume.
pub(crate) fn nodes<C: Commands>(pool: &Pool<C>, token: &Token) -> Result<Vec<String>, Error> {
    let claims = pool.claims(token.as_str())?.unwrap_or_default();
    let mut nodes: Vec<_> = claims.claims.into_iter().map(|claim| claim.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    Ok(nodes)
}

/// Lets a node reach a volume.
pub(crate) fn attach<C: Commands>(
    pool: &Pool<C>,
    which: &Which,
    node: &Node,
    read_only: bool,
) -> Result<Attaching, Error> {
    let token = Token::of_volume(which)?;
    let who = name_of(node)?;
    let taken = claim(pool, &token, who, read_only)?;
    let Some(watchers) = pool.watchers(token.as_str())? else {
        // Claiming what is not there made the object that the claim is on.
        pool.remove(token.as_str(), &format!("removing what is left of the image {token}"))?;
        return Err(error::no_volume(&token));
    };
    let known: Vec<_> = clients(node).collect();
    let Strangers { addresses, unsure } = strangers(pool, watchers, &known)?;
    if !addresses.is_empty() {
        if taken && let Some(claims) = pool.claims(token.as_str())? {
            release(pool, &token, who, &claims)?;
        }
        let advice = match unsure {
            None => "close it there, or wait half a minute if it died".to_owned(),
            Some(error) => format!(
                "some of these may be the cluster itself, which nobody may ask here: {}",
                error.message
            ),
        };
        return Err(Error::in_use(format!(
            "another client has the image open: {} at {}; {advice}",
            token,
            addresses.join(", ")
        )));
    }
    Ok(Attaching::Done(Attached { connection: convert::connection(&pool.config, &token), client: None }))
}

/// Claims a volume for a node. True if it was taken now, false if the node had it.
fn claim<C: Commands>(pool: &Pool<C>, token: &Token, who: &str, read_only: bool) -> Result<bool, Error> {
    let name = token.as_str();
    // Anybody can share a claim any number of times, so a repeated call would add another.
    if read_only && pool.claims(name)?.is_some_and(|claims| claims.has(who)) {
        return Ok(false);
    }
    let kind = if read_only { "shared" } else { "exclusive" };
    let holes = [("image", name), ("node", who), ("type", kind)];
    for _ in 0..2 {
        let ended = pool.run("rbd-claim", &holes)?;
        if ended.errno == 0 {
            return Ok(true);
        }
        let Some(claims) = pool.claims(name)? else { return Err(error::no_volume(token)) };
        let others = claims.others(who);
        match (claims.has(who), others.as_slice()) {
            (false, []) => return Err(ended.error(&format!("claiming the image {token} for {who}"))),
            // It was attached there to be read only.
            (true, []) if claims.shared && !read_only => release(pool, token, who, &claims)?,
            (true, []) => return Ok(false),
            (true, _) if read_only => return Ok(false),
            (_, others) => {
                return Err(Error::in_use(format!(
                    "the volume {token} is attached to {}; if that node is gone for good: `rados -p {} lock info \
                     rbd_id.{token} kato`, then `lock break` with what it tells",
                    others.join(", "),
                    pool.config.pool
                )));
            }
        }
    }
    Err(Error::busy(format!("somebody else is attaching the volume {token}")))
}

/// Gives back what a node has claimed.
fn release<C: Commands>(pool: &Pool<C>, token: &Token, who: &str, claims: &Claims) -> Result<(), Error> {
    for claim in claims.claims.iter().filter(|claim| claim.node == who) {
        let holes = [("image", token.as_str()), ("locker", &claim.locker), ("node", who)];
        pool.change("rbd-unclaim", &holes, &[ABSENT], &format!("giving back the claim of {who} on {token}"))?;
    }
    Ok(())
}

/// Ends that.
pub(crate) fn detach<C: Commands>(pool: &Pool<C>, which: &Which, node: &Node) -> Result<Detaching, Error> {
    let token = Token::of_volume(which)?;
    let who = name_of(node)?;
    if let Some(claims) = pool.claims(token.as_str())? {
        release(pool, &token, who, &claims)?;
    }
    Ok(Detaching::Done)
}

/// Cuts a node off a volume.
pub(crate) fn fence<C: Commands>(
    pool: &Pool<C>,
    which: &Which,
    node: &Node,
    named: &[String],
) -> Result<Fenced, Error> {
    let token = Token::of_volume(which)?;
    let who = name_of(node)?;
    let claims = pool.claims(token.as_str())?.unwrap_or_default();
    let watchers = pool.watchers(token.as_str())?;
    let theirs = claims.has(who);
    let mut off: Vec<String> = named.to_vec();
    let open =
        watchers.iter().flatten().filter(|watcher| clients(node).any(|client| client == watcher.as_str()));
    off.extend(open.cloned());
    off.sort_unstable();
    off.dedup();
    for client in &off {
        block(pool, client)?;
    }
    // Where another node has the volume and this one does not, those who have it open are that one's.
    if let Some(watchers) = watchers.as_ref().filter(|_| theirs || claims.claims.is_empty())
        && claims.others(who).is_empty()
    {
        let known: Vec<_> = off.iter().map(String::as_str).collect();
        let strangers = strangers(pool, watchers.clone(), &known)?;
        if let Some(unsure) = strangers.unsure {
            // The cluster's own clients must not be cut off, and cannot be told from the node's.
            return Err(unsure.while_at(format!("telling who has the image {token} open")));
        }
        for client in &strangers.addresses {
            block(pool, client)?;
        }
        off.extend(strangers.addresses);
    }
    if theirs && off.is_empty() {
        silent(pool, &token, who)?;
    }
    if let Some(short) = short(pool, &off)? {
        return Ok(Fenced::Pending(short));
    }
    release(pool, &token, who, &claims)?;
    Ok(Fenced::Done)
}

/// A node that claimed a volume, and of which nobody is known who has it open. Half a minute after it was cut off from
/// the network its watch is over, and still it may come back. With exclusive-lock whoever writes next takes the lock
/// from it, and Ceph blocklists it in doing so; without, nothing keeps it from writing.
fn silent<C: Commands>(pool: &Pool<C>, token: &Token, who: &str) -> Result<(), Error> {
    match pool.image(token.as_str())? {
        Some(image) if !image.features.iter().any(|feature| feature == "exclusive-lock") => {
            Err(Error::precondition(format!(
                "the image {token} is claimed by {who}, no client of it is known, and the image has no exclusive-lock: \
                 nobody can tell that {who} will not write to it any more; turn that machine off, then detach"
            )))
        }
        _ => Ok(()),
    }
}

/// An entry that was there before ours keeps its own end: Ceph says that it takes the later one, and does not. A client
/// that may come in again so soon could still write what it had in mind, so its entry has to end and be made anew.
fn short<C: Commands>(pool: &Pool<C>, off: &[String]) -> Result<Option<Pending>, Error> {
    if off.is_empty() {
        return Ok(None);
    }
    let enough = clock::date(clock::now(), LONG_ENOUGH);
    let mut entries = pool.blocklisted()?;
    entries.retain(|(client, until)| off.contains(client) && *until < enough);
    Ok(entries.first().map(|(client, until)| Pending {
        resume: b"blocklist".to_vec(),
        retry_after_ms: SHORT_MS,
        note: format!(
            "{client} is on the cluster's blocklist only until {until}, by somebody else's hand, and an entry cannot be \
             made longer: once it is over, or `ceph osd blocklist rm {client}` ended it, it is made anew for ten years"
        ),
    }))
}

fn block<C: Commands>(pool: &Pool<C>, client: &str) -> Result<(), Error> {
    pool.change("ceph-blocklist", &[("client", client)], &[], &format!("blocklisting {client}")).map(drop)
}

fn clients(node: &Node) -> impl Iterator<Item = &str> {
    node.identities.iter().filter(|(kind, _)| kind == CLIENT).map(|(_, client)| client.as_str())
}

fn name_of(node: &Node) -> Result<&str, Error> {
    if names::is_word(&node.name) {
        return Ok(&node.name);
    }
    Err(Error::invalid(format!(
        "the node {:?} cannot claim a volume: its name has to be of letters, digits, '.', '_' and '-', at most 100, and \
         begin with a letter or digit",
        node.name
    )))
}
