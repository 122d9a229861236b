//! Granted requests: where they may go, with which methods and paths, and which addresses the name may turn
//! out to be. [`Rules::check`] looks at the request, [`Rules::address`] at each address that the host's name
//! resolved to, just before the connection is made to it (`imports/http.rs`). Nothing is compared as text
//! that the network would read in another way: names are compared as hosts, addresses as numbers after
//! every IPv4 address that hides in an IPv6 one was taken out.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use http::{HeaderName, Method, Uri};
use kato_orchestrator::Error;
use serde::Deserialize;

use super::{
    credentials::{Authoriser, Secrets},
    denied,
    way::{ProxyGrant, Way},
};

/// Where requests may go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGrant {
    /// Scheme, host and port (the scheme's own where none is given): `https://api.example.com`. A host `*.x`
    /// is any beneath `x`.
    pub url: String,
    /// The methods; none given allows all but CONNECT and TRACE, which nothing allows.
    #[serde(default)]
    pub methods: Vec<String>,
    /// The paths; none given allows all. `*` is one segment, `**` at the end any rest.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Which addresses the host may resolve to.
    #[serde(default)]
    pub addresses: Addresses,
    /// Who vouches for these requests.
    #[serde(default)]
    pub authoriser: Option<Authoriser>,
    /// The proxy that they go through.
    #[serde(default)]
    pub proxy: Option<ProxyGrant>,
    /// A PEM file of the authorities whose certificates are believed, instead of those that browsers trust.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

impl HttpGrant {
    /// A grant of an origin with these addresses and nothing else to it.
    fn plain(url: &str, addresses: &[String]) -> Self {
        let (methods, paths) = (Vec::new(), Vec::new());
        let addresses = Addresses::Many(addresses.to_vec());
        Self { url: url.to_owned(), methods, paths, addresses, authoriser: None, proxy: None, ca: None }
    }
}

/// Which addresses a host may resolve to.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Addresses {
    /// `public`, `private`, `loopback`, or a network such as `10.1.0.0/16`.
    One(String),
    /// Any of these.
    Many(Vec<String>),
}

impl Default for Addresses {
    fn default() -> Self {
        Self::One("public".into())
    }
}

/// What a backend's guests may request.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    asks: Vec<Origin>,
    /// The ways that they take, each once.
    pub(crate) ways: Vec<Way>,
    pub(crate) secrets: Secrets,
}

/// One grant, ready to be compared.
#[derive(Debug)]
pub(crate) struct Rule {
    origin: Origin,
    methods: Vec<Method>,
    paths: Vec<String>,
    networks: Vec<Network>,
    pub(crate) authoriser: Option<Authoriser>,
    /// Which of the ways it takes.
    pub(crate) way: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    tls: bool,
    host: Host,
    /// Nothing for any.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    Beneath(String),
    Named(String),
}

/// Addresses that go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Public,
    Private,
    Loopback,
    Cidr(IpAddr, u8),
}

/// What kind of address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Public,
    Private,
    Loopback,
    /// Link-local, metadata services, multicast, unspecified: never meant by a name.
    Never,
}

/// Metadata services that live on addresses of other kinds.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether an asked origin covers a granted one, or the other way round.
pub(crate) fn covers(wide: &str, narrow: &str) -> bool {
    match (Origin::parse(wide), Origin::parse(narrow)) {
        (Ok(wide), Ok(narrow)) => {
            let host = match (&wide.host, &narrow.host) {
                (Host::Any, _) => true,
                (Host::Beneath(_) | Host::Named(_), Host::Any) | (Host::Named(_), Host::Beneath(_)) => false,
                (Host::Beneath(wide), Host::Beneath(narrow)) => narrow.ends_with(wide.as_str()),
                (wide, Host::Named(narrow)) => wide.matches(narrow),
            };
            wide.tls == narrow.tls && host && (wide.port.is_none() || wide.port == narrow.port)
        }
        _ => false,
    }
}

impl Rules {
    pub(crate) fn new(
        asks: &[String],
        grants: &[HttpGrant],
        secrets: &Secrets,
        mistake: &mut impl FnMut(Error),
    ) -> Self {
        let mut rules = Self { secrets: secrets.clone(), ..Self::default() };
        for ask in asks {
            match Origin::parse(ask) {
                Ok(origin) => rules.asks.push(origin),
                Err(error) => mistake(error),
            }
        }
        for grant in grants {
            match Rule::new(grant, &mut rules.ways) {
                Ok(rule) => rules.rules.push(rule),
                Err(error) => mistake(error),
            }
        }
        rules
    }

    /// Rules for requests of the house's own: to these origins with these addresses, what is encrypted by this way
    /// and the rest straight.
    pub(crate) fn own(
        origins: &[(String, Vec<String>)],
        way: &Way,
        secrets: &Secrets,
    ) -> Result<Self, Error> {
        let asks = ["https://*:*", "http://*:*"].map(Origin::parse).into_iter().collect::<Result<_, _>>()?;
        let mut ways = vec![Way::default(), way.clone()];
        let mut rules = Vec::new();
        for (url, addresses) in origins {
            let mut rule = Rule::new(&HttpGrant::plain(url, addresses), &mut ways)?;
            rule.way = usize::from(rule.origin.tls);
            rules.push(rule);
        }
        Ok(Self { rules, asks, ways, secrets: secrets.clone() })
    }

    /// Whether nothing can be requested.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty() || self.asks.is_empty()
    }

    /// Headers that authorisers set and no guest may.
    pub(crate) fn own_headers(&self) -> Vec<HeaderName> {
        let authorisers = self.rules.iter().filter_map(|rule| rule.authoriser.as_ref());
        authorisers.filter_map(|authoriser| authoriser.headers().ok()).flatten().collect()
    }

    /// The grant that allows this request, or why none does.
    pub(crate) fn check(&self, method: &Method, uri: &Uri) -> Result<&Rule, Error> {
        let (tls, host, port) = target(uri)?;
        let shown = format!("{method} {}://{host}:{port}", if tls { "https" } else { "http" });
        if matches!(*method, Method::CONNECT | Method::TRACE) {
            return Err(denied(format!("{shown} is refused: no grant allows this method")));
        }
        if !self.asks.iter().any(|ask| ask.matches(tls, &host, port)) {
            return Err(denied(format!("{shown} is refused: the plugin's manifest does not ask for it")));
        }
        let mut here = self.rules.iter().filter(|rule| rule.origin.matches(tls, &host, port)).peekable();
        if here.peek().is_none() {
            return Err(denied(format!("{shown} is refused: this backend has no grant for it")));
        }
        let path = uri.path();
        here.find(|rule| rule.allows(method, path)).ok_or_else(|| {
            let path: String = path.chars().take(200).collect();
            denied(format!("{shown}{path} is refused: the grant does not allow this method or path"))
        })
    }

    /// Whether this host may be this address.
    pub(crate) fn address(&self, tls: bool, host: &str, port: u16, address: IpAddr) -> Result<(), Error> {
        let mut here = self.rules.iter().filter(|rule| rule.origin.matches(tls, host, port));
        if here.any(|rule| rule.networks.iter().any(|network| network.holds(address))) {
            return Ok(());
        }
        let kind = match reach(unwrap(address)) {
            Reach::Public => "a public address",
            Reach::Private => "a private address",
            Reach::Loopback => "this host itself",
            Reach::Never => "a link-local or metadata address",
        };
        Err(denied(format!("{host} is {address}, {kind}, and the grant's `addresses` do not allow that")))
    }
}

/// Scheme, host and port that a request is for.
pub(crate) fn target(uri: &Uri) -> Result<(bool, String, u16), Error> {
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(denied("only http and https can be requested")),
    };
    let authority = uri.authority().ok_or_else(|| denied("the request names no host"))?;
    if authority.as_str().contains('@') {
        return Err(denied("the request's host carries a user name: credentials are the host's to add"));
    }
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    if host.is_empty() {
        return Err(denied("the request names no host"));
    }
    // What follows the host has to be nothing or a port: `http` reads a broken one as none.
    let rest = authority.as_str().get(authority.host().len()..).unwrap_or("");
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => {
            if tls {
                443
            } else {
                80
            }
        }
        Some(digits) => digits.parse().map_err(|_| denied("the request's port is no number"))?,
        None => return Err(denied("the request's host is malformed")),
    };
    Ok((tls, host, port))
}

impl Rule {
    fn new(grant: &HttpGrant, ways: &mut Vec<Way>) -> Result<Self, Error> {
        let origin = Origin::parse(&grant.url)?;
        if origin.host == Host::Any {
            return Err(Error::invalid(format!("the grant {:?} is for any host: name the hosts", grant.url)));
        }
        let wrong = |what: String| Error::invalid(format!("the grant {:?} {what}", grant.url));
        let methods = grant
            .methods
            .iter()
            .map(|method| {
                Method::from_bytes(method.to_ascii_uppercase().as_bytes())
                    .map_err(|_| wrong(format!("names the unknown method {method:?}")))
            })
            .collect::<Result<_, _>>()?;
        if let Some(path) = grant.paths.iter().find(|path| !path.starts_with('/')) {
            return Err(wrong(format!("has the path {path:?}, which does not begin with a slash")));
        }
        let words = match &grant.addresses {
            Addresses::One(word) => std::slice::from_ref(word),
            Addresses::Many(words) => words,
        };
        let networks = words
            .iter()
            .map(|word| {
                Network::parse(word).ok_or_else(|| {
                    wrong(format!(
                        "has the unknown addresses {word:?}: use public, private, loopback or a CIDR"
                    ))
                })
            })
            .collect::<Result<_, _>>()?;
        if let Some(authoriser) = &grant.authoriser {
            authoriser.headers()?;
        }
        let way = Way::new(grant.proxy.as_ref(), grant.ca.as_ref())?;
        let way = ways.iter().position(|known| *known == way).unwrap_or_else(|| {
            ways.push(way);
            ways.len() - 1
        });
        Ok(Self {
            origin,
            methods,
            paths: grant.paths.clone(),
            networks,
            authoriser: grant.authoriser.clone(),
            way,
        })
    }

    fn allows(&self, method: &Method, path: &str) -> bool {
        (self.methods.is_empty() || self.methods.contains(method))
            && (self.paths.is_empty()
                || (plain(path) && self.paths.iter().any(|pattern| path_matches(pattern, path))))
    }
}

/// Whether every server reads the path as we do: no dot segments, no encoded separators.
fn plain(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    !["%2f", "%5c", "%2e", "%00", "\\", "//"].iter().any(|trick| lower.contains(trick))
        && !path.split('/').any(|segment| segment == "." || segment == "..")
}

fn path_matches(pattern: &str, path: &str) -> bool {
    let mut wanted = pattern.split('/');
    let mut given = path.split('/');
    loop {
        match (wanted.next(), given.next()) {
            (Some("**"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(segment)) if !segment.is_empty() => {}
            (Some(want), Some(segment)) if want == segment => {}
            _ => return false,
        }
    }
}

impl Origin {
    fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::invalid(format!(
                "{text:?} is no origin: write scheme, host and port as in https://api.example.com"
            ))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(wrong()),
        };
        let rest = rest.trim_end_matches('/');
        let (host, port) = if rest.starts_with('[') {
            let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
            (format!("{host}]"), port.strip_prefix(':'))
        } else {
            let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
            (host.to_owned(), port)
        };
        let port = match port {
            None => Some(if tls { 443 } else { 80 }),
            Some("*") => None,
            Some(port) => Some(port.parse().map_err(|_| wrong())?),
        };
        if host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) {
            return Err(wrong());
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let host = match host.strip_prefix('*') {
            Some("") => Host::Any,
            Some(rest) if rest.starts_with('.') && !rest.contains('*') => Host::Beneath(rest.to_owned()),
            Some(_) => return Err(wrong()),
            None if host.contains('*') => return Err(wrong()),
            None => Host::Named(host),
        };
        Ok(Self { tls, host, port })
    }

    fn matches(&self, tls: bool, host: &str, port: u16) -> bool {
        self.tls == tls && self.port.is_none_or(|own| own == port) && self.host.matches(host)
    }
}

impl Host {
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Beneath(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Self::Named(name) => name == host,
        }
    }
}

impl Network {
    pub(super) fn parse(word: &str) -> Option<Self> {
        match word {
            "public" => return Some(Self::Public),
            "private" => return Some(Self::Private),
            "loopback" => return Some(Self::Loopback),
            _ => {}
        }
        let (address, bits) = word.split_once('/').map_or((word, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().ok()?;
        let widest = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(widest), |bits| bits.parse().ok())?;
        (bits <= widest).then_some(Self::Cidr(address, bits))
    }

    pub(super) fn holds(self, address: IpAddr) -> bool {
        let address = unwrap(address);
        match (self, reach(address)) {
            // Only a network that lies wholly among such addresses was granted on purpose.
            (Self::Cidr(base, bits), Reach::Never) => inside(base, bits, address) && narrow(base, bits),
            (Self::Cidr(base, bits), _) => inside(base, bits, address),
            (Self::Public, Reach::Public)
            | (Self::Private, Reach::Private)
            | (Self::Loopback, Reach::Loopback) => true,
            (Self::Public | Self::Private | Self::Loopback, _) => false,
        }
    }
}

fn inside(base: IpAddr, bits: u8, address: IpAddr) -> bool {
    let differs = |a: u128, b: u128, width: u32| {
        let keep = u32::from(bits);
        keep > 0 && (a ^ b) >> width.saturating_sub(keep) != 0
    };
    match (base, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => !differs(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => !differs(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

/// Whether a network holds nothing but addresses that are never meant.
fn narrow(base: IpAddr, bits: u8) -> bool {
    let wide_enough = match base {
        IpAddr::V4(v4) if v4.is_link_local() => bits >= 16,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => bits >= 10,
        IpAddr::V4(_) => bits == 32,
        IpAddr::V6(_) => bits == 128,
    };
    reach(base) == Reach::Never && wide_enough
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible, translated (NAT64), 6to4, Teredo.
fn unwrap(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let bits = v6.to_bits();
    let low = u32::try_from(bits & 0xffff_ffff).unwrap_or(0);
    let second = u32::try_from((bits >> 80) & 0xffff_ffff).unwrap_or(0);
    let v4 = match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            low
        }
        [0, 0, 0, 0, 0, 0, _, _] if low > 1 => low,
        [0x64, 0xff9b, 1, ..] => low,
        [0x2002, ..] => second,
        [0x2001, 0, ..] => !low,
        _ => return address,
    };
    IpAddr::V4(Ipv4Addr::from_bits(v4))
}

fn reach(address: IpAddr) -> Reach {
    if METADATA.contains(&address) {
        return Reach::Never;
    }
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            if v4.is_loopback() {
                Reach::Loopback
            } else if v4.is_link_local() || v4.is_multicast() || a == 0 || a >= 240 {
                Reach::Never
            } else if v4.is_private()
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b & 0xfe) == 18)
            {
                Reach::Private
            } else {
                Reach::Public
            }
        }
        IpAddr::V6(v6) => {
            if v6.is_loopback() {
                Reach::Loopback
            } else if v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified() {
                Reach::Never
            } else if v6.is_unique_local() || (v6.segments().first().is_some_and(|s| s & 0xffc0 == 0xfec0)) {
                Reach::Private
            } else {
                Reach::Public
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(toml: &str) -> Rules {
        let grant: HttpGrant = toml::from_str(toml).unwrap();
        let asks = ["https://*:*".to_owned(), "http://*:*".to_owned()];
        Rules::new(&asks, &[grant], &Secrets::default(), &mut |error| panic!("{error}"))
    }

    fn allows(rules: &Rules, method: &str, uri: &str) -> bool {
        rules.check(&Method::from_bytes(method.as_bytes()).unwrap(), &uri.parse().unwrap()).is_ok()
    }

    #[test]
    fn scheme_host_and_port_have_to_match() {
        let rules = rules("url = \"https://api.example.com\"");
        for good in ["https://api.example.com/x", "https://API.example.com:443/", "https://api.example.com./"]
        {
            assert!(allows(&rules, "GET", good), "{good}");
        }
        for bad in [
            "http://api.example.com/",
            "https://api.example.com:444/",
            "https://example.com/",
            "https://api.example.com.evil.org/",
            "https://evil@api.example.com/",
            "https://api.example.com@evil.org/",
            "https://xapi.example.com/",
        ] {
            assert!(!allows(&rules, "GET", bad), "{bad}");
        }
        assert!(!allows(&rules, "CONNECT", "https://api.example.com/"));
    }

    #[test]
    fn methods_and_paths_narrow_a_grant() {
        let rules =
            rules("url = \"https://*.x.org\"\nmethods = [\"GET\"]\npaths = [\"/v1/*/disks\", \"/v2/**\"]");
        for good in ["/v1/p/disks", "/v2/", "/v2/a/b"] {
            assert!(allows(&rules, "GET", &format!("https://a.x.org{good}")), "{good}");
        }
        for bad in ["/", "/v1/p/q/disks", "/v1//disks", "/v2/../v3", "/v2/%2e%2e/v3", "/v2/..%2fv3", "/v3"] {
            assert!(!allows(&rules, "GET", &format!("https://a.x.org{bad}")), "{bad}");
        }
        assert!(!allows(&rules, "POST", "https://a.x.org/v2/a"));
        assert!(!allows(&rules, "GET", "https://x.org/v2/a"));
    }

    #[test]
    fn what_is_not_asked_for_is_refused_although_it_is_granted() {
        let grant: HttpGrant = toml::from_str("url = \"https://api.example.com\"").unwrap();
        let rules = Rules::new(&[], &[grant], &Secrets::default(), &mut |error| panic!("{error}"));
        let error = rules.check(&Method::GET, &"https://api.example.com/".parse().unwrap()).unwrap_err();
        assert!(error.message.contains("does not ask"), "{error}");
    }

    #[test]
    fn addresses_are_told_apart_however_they_are_written() {
        let allowed = |words: &str, address: &str| {
            let rules = rules(&format!("url = \"https://h\"\naddresses = {words}"));
            rules.address(true, "h", 443, address.parse().unwrap()).is_ok()
        };
        for never in [
            "169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::a9fe:a9fe",
        ] {
            let words = "[\"public\", \"private\", \"loopback\", \"0.0.0.0/0\", \"::/0\"]";
            assert!(!allowed(words, never), "{never}");
        }
        assert!(allowed("\"169.254.169.254\"", "169.254.169.254"));
        assert!(allowed("\"public\"", "1.1.1.1") && allowed("\"public\"", "2606:4700::1"));
        for private in ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::1", "::ffff:10.0.0.1"] {
            assert!(!allowed("\"public\"", private) && allowed("\"private\"", private), "{private}");
        }
        for own in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            assert!(!allowed("[\"public\", \"private\"]", own) && allowed("\"loopback\"", own), "{own}");
        }
        assert!(allowed("[\"10.1.0.0/16\"]", "10.1.2.3") && !allowed("[\"10.1.0.0/16\"]", "10.2.0.1"));
    }

    #[test]
    fn a_grant_for_any_host_is_refused() {
        let grant: HttpGrant = toml::from_str("url = \"https://*\"").unwrap();
        assert!(Rule::new(&grant, &mut Vec::new()).is_err());
    }
}
