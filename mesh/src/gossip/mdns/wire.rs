//! Announcements and questions as DNS messages, and whose announcements are believed.
//!
//! | record | of a node at `192.0.2.7:7443` |
//! |---|---|
//! | PTR | `_stoq._udp.local` is `I._stoq._udp.local`, where I is the first half of the node id, in 32 digits |
//! | SRV, one a port | `I._stoq._udp.local` is port 7443 of `I-7443.local` |
//! | A or AAAA | `I-7443.local` is `192.0.2.7` |
//! | TXT | `v=1`, `c=` the cluster's tag, `m=` a code over all of this |
//!
//! All of them come in one message, so nothing has to be pieced together. Tag and code are made with the cluster's secret: the tag tells clusters on one link apart and says nothing
//! else; the code is right only where a member made it. It does not say which, nor when: whoever heard an announcement can repeat it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query};
use hickory_resolver::proto::rr::rdata::{A, AAAA, PTR, SRV, TXT};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// The longest message that is read: what an Ethernet carries whole. Ours have at most some 900 bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 1_500;
/// Addresses of a node; of more only so many are used.
pub(super) const ADDRESSES_MAX: usize = 8;
/// How long an announcement holds, in seconds: what RFC 6762 §10 recommends for records with a host's name.
pub(super) const TTL: u32 = 120;
/// Instances that a question says are known.
const KNOWN_MAX: usize = 20;

/// The class of records of which there are no others of that name and type (RFC 6762 §10.2).
const ALONE: u16 = 0x8001;
/// All of a class but the bit that it shares with something else.
const CLASS: u16 = 0x7fff;

/// A node as it is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// The first half of its id, as 32 digits.
    pub(super) instance: String,
    /// At most [`ADDRESSES_MAX`], each [usable](is_usable).
    pub(super) addresses: BTreeSet<SocketAddr>,
}

/// What a message comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing of ours, as most of what other devices say.
    Nothing,
    /// Somebody asks for nodes, or for this one's addresses, and does not know of it yet.
    Asked,
    /// A member of the cluster says that this node is there, for [`TTL`] seconds.
    Here(Node),
    /// It says that this node leaves.
    Leaves(Node),
}

/// Why a message is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is no DNS message, or is an announcement that lacks something.
    Malformed,
    /// It announces a node of another cluster.
    OtherCluster,
    /// It is said to be of this cluster, and no member made it so.
    Forged,
}

/// Whether other machines may reach this address and it can be told without naming an interface.
pub(super) fn is_usable(addr: &SocketAddr) -> bool {
    let ip = addr.ip();
    let is_of_one_link = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    addr.port() != 0
        && !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_of_one_link)
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a node id is called here.
pub(super) fn instance_of(id: &[u8; 32]) -> String {
    digits(id.first_chunk::<16>().expect("32 bytes have 16"))
}

/// What members of a cluster know each other by.
#[derive(Clone)]
pub(super) struct Seal {
    tag: String,
    key: [u8; 32],
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal")
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

impl Seal {
    /// Of the secret that all nodes of the cluster share.
    pub(super) fn of(cluster_secret: &[u8; 32]) -> Self {
        let tag = blake3::derive_key("stoq mdns 1 cluster tag", cluster_secret);
        Self {
            tag: digits(tag.first_chunk::<8>().expect("32 bytes have 8")),
            key: blake3::derive_key("stoq mdns 1 announcement", cluster_secret),
        }
    }

    /// The code of an announcement, or of a goodbye, which one must not become by another TTL.
    fn code(&self, node: &Node, leaves: bool) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(if leaves { b"leaves " } else { b"is at  " });
        hasher.update(node.instance.as_bytes());
        for addr in &node.addresses {
            hasher.update(format!(" {addr}").as_bytes());
        }
        hasher.finalize()
    }
}

/// The name that nodes are found under.
fn service() -> Name {
    Name::from_ascii("_stoq._udp.local.").expect("it is a name")
}

/// The name of an instance. `None` where it has none, which that of a [`Node`] has.
fn instance_name(instance: &str) -> Option<Name> {
    service().prepend_label(instance).ok()
}

fn target(instance: &str, port: u16) -> Option<Name> {
    Name::from_ascii(format!("{instance}-{port}.local.")).ok()
}

/// The message that says that a node is there, or that it leaves. `None` where it has nothing to say.
pub(super) fn announcement(node: &Node, seal: &Seal, leaves: bool) -> Option<Vec<u8>> {
    if node.addresses.is_empty() {
        return None;
    }
    let ttl = if leaves { 0 } else { TTL };
    let name = instance_name(&node.instance)?;
    let alone = |name: &Name, data: RData| {
        let mut record = Record::from_rdata(name.clone(), ttl, data);
        record.dns_class = DNSClass::from(ALONE);
        record
    };
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.authoritative = true;
    // There are others of this name: each node has one.
    message.add_answer(Record::from_rdata(
        service(),
        ttl,
        RData::PTR(PTR(name.clone())),
    ));
    let ports: BTreeSet<u16> = node.addresses.iter().map(SocketAddr::port).collect();
    for port in ports {
        let srv = SRV::new(0, 0, port, target(&node.instance, port)?);
        message.add_answer(alone(&name, RData::SRV(srv)));
    }
    let text = [
        "v=1".to_owned(),
        format!("c={}", seal.tag),
        format!("m={}", seal.code(node, leaves).to_hex()),
    ];
    message.add_answer(alone(&name, RData::TXT(TXT::new(text.to_vec()))));
    for addr in &node.addresses {
        let data = match addr.ip() {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        message.add_answer(alone(&target(&node.instance, addr.port())?, data));
    }
    message.to_vec().ok()
}

/// The message that asks who is there. Who is among `known`, with so many seconds left, need not answer; of more than [`KNOWN_MAX`] some do so all the same.
pub(super) fn question<'a>(known: impl Iterator<Item = (&'a str, u32)>) -> Option<Vec<u8>> {
    let mut message = Message::query();
    message.metadata.id = 0;
    message.metadata.recursion_desired = false;
    message.add_query(Query::query(service(), RecordType::PTR));
    for (instance, left) in known.take(KNOWN_MAX) {
        let ptr = RData::PTR(PTR(instance_name(instance)?));
        message.add_answer(Record::from_rdata(service(), left, ptr));
    }
    message.to_vec().ok()
}

/// What a message says to the node `own`.
///
/// # Errors
/// It is to be passed over.
pub(super) fn read(bytes: &[u8], own: &str, seal: &Seal) -> Result<Said, Fault> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Fault::Malformed);
    }
    let message = Message::from_vec(bytes).map_err(|_| Fault::Malformed)?;
    match message.metadata.message_type {
        MessageType::Query => Ok(asked(&message, own)),
        MessageType::Response => here(&message, seal),
    }
}

/// For the fuzzer: the announcement or goodbye that a message is read as, as this program writes it.
#[must_use]
pub fn heard(message: &[u8], cluster_secret: &[u8; 32]) -> Option<Vec<u8>> {
    let seal = Seal::of(cluster_secret);
    match read(message, &digits(&[0; 16]), &seal).ok()? {
        Said::Here(node) => announcement(&node, &seal, false),
        Said::Leaves(node) => announcement(&node, &seal, true),
        Said::Nothing | Said::Asked => None,
    }
}

fn is_internet(class: DNSClass) -> bool {
    u16::from(class) & CLASS == u16::from(DNSClass::IN)
}

fn asked(message: &Message, own: &str) -> Said {
    let (service, name) = (service(), instance_name(own));
    let of_host = |name: &Name| {
        let host = name.iter().next().unwrap_or_default();
        name.num_labels() == 2 && host.starts_with(own.as_bytes())
    };
    let concerns = message.queries.iter().take(KNOWN_MAX).any(|query| {
        is_internet(query.query_class)
            && match query.query_type {
                RecordType::PTR => query.name == service,
                RecordType::SRV | RecordType::TXT => Some(&query.name) == name.as_ref(),
                RecordType::A | RecordType::AAAA => of_host(&query.name),
                RecordType::ANY => {
                    query.name == service
                        || Some(&query.name) == name.as_ref()
                        || of_host(&query.name)
                }
                _ => false,
            }
    });
    //= https://www.rfc-editor.org/rfc/rfc6762#section-7.1
    //# A Multicast DNS responder MUST NOT answer a Multicast DNS query if
    //# the answer it would give is already included in the Answer Section
    //# with an RR TTL at least half the correct value.
    let is_known = message.answers.iter().any(|record| match &record.data {
        RData::PTR(PTR(to)) => {
            record.name == service && Some(to) == name.as_ref() && record.ttl >= TTL / 2
        }
        _ => false,
    });
    match concerns && !is_known {
        true => Said::Asked,
        false => Said::Nothing,
    }
}

/// The node that a response announces: one, since ours each announce themselves alone.
fn here(message: &Message, seal: &Seal) -> Result<Said, Fault> {
    let service = service();
    let records = || {
        let all = message.all_sections();
        all.filter(|record| is_internet(record.dns_class))
    };
    let announced = records().find_map(|record| match &record.data {
        RData::PTR(PTR(name)) if record.name == service => Some((name, record.ttl)),
        _ => None,
    });
    let Some((name, ttl)) = announced else {
        return Ok(Said::Nothing);
    };
    let text = records().find_map(|record| match &record.data {
        RData::TXT(text) if record.name == *name => Some(text),
        _ => None,
    });
    let text = text.ok_or(Fault::Malformed)?;
    let value = |key: &[u8]| {
        let mut values = text.txt_data.iter();
        values.find_map(|value| value.strip_prefix(key))
    };
    if value(b"v=") != Some(b"1") {
        return Err(Fault::Malformed);
    }
    if value(b"c=") != Some(seal.tag.as_bytes()) {
        return Err(Fault::OtherCluster);
    }
    let instance = name.iter().next().unwrap_or_default();
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if name.base_name() != service || instance.len() != 32 || !instance.iter().all(is_digit) {
        return Err(Fault::Malformed);
    }
    let services = records().filter_map(|record| match &record.data {
        RData::SRV(srv) if record.name == *name => Some(srv),
        _ => None,
    });
    let mut addresses = BTreeSet::new();
    for srv in services.take(ADDRESSES_MAX) {
        let hosts = records().filter(|record| record.name == srv.target);
        let ips = hosts.filter_map(|record| match &record.data {
            RData::A(A(ip)) => Some(IpAddr::V4(*ip)),
            RData::AAAA(AAAA(ip)) => Some(IpAddr::V6(*ip)),
            _ => None,
        });
        addresses.extend(
            ips.map(|ip| SocketAddr::new(ip, srv.port))
                .take(ADDRESSES_MAX),
        );
    }
    let node = Node {
        instance: String::from_utf8_lossy(instance).into_owned(),
        addresses,
    };
    let code = value(b"m=").and_then(|hex| blake3::Hash::from_hex(hex).ok());
    // Hashes are compared in constant time.
    if code != Some(seal.code(&node, ttl == 0)) {
        return Err(Fault::Forged);
    }
    let is_whole = !node.addresses.is_empty() && node.addresses.len() <= ADDRESSES_MAX;
    if !is_whole || !node.addresses.iter().all(is_usable) {
        return Err(Fault::Malformed);
    }
    // How long it holds the code does not cover, and all members say the same.
    Ok(match ttl {
        0 => Said::Leaves(node),
        _ => Said::Here(node),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seal() -> Seal {
        Seal::of(&[7; 32])
    }

    fn node(addresses: &[&str]) -> Node {
        Node {
            instance: instance_of(&[0xab; 32]),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    const OTHER: &str = "00000000000000000000000000000000";

    #[test]
    fn an_announcement_says_where_a_node_is_and_a_goodbye_that_it_leaves() {
        let node = node(&["192.0.2.7:7443", "192.0.2.8:7444", "[2001:db8::7]:7443"]);
        let message = announcement(&node, &seal(), false).unwrap();
        assert_eq!(read(&message, OTHER, &seal()), Ok(Said::Here(node.clone())));
        let message = announcement(&node, &seal(), true).unwrap();
        assert_eq!(read(&message, OTHER, &seal()), Ok(Said::Leaves(node)));
    }

    #[test]
    fn the_longest_announcement_fits_an_ethernet() {
        let addresses: Vec<_> = (0..8)
            .map(|at| format!("[2001:db8:1111:2222:3333:4444:5555:{at:x}]:{}", 50_000 + at))
            .collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let message = announcement(&node(&addresses), &seal(), false).unwrap();
        assert!(message.len() <= 1_232, "{}", message.len());
        let known: Vec<_> = (0..64).map(|at| format!("{at:032x}")).collect();
        let known = known.iter().map(|name| (name.as_str(), TTL));
        let question = question(known).unwrap();
        assert!(question.len() <= 1_232, "{}", question.len());
    }

    /// What a change of an announcement makes of it.
    fn changed(change: impl FnOnce(&mut Message)) -> Result<Said, Fault> {
        let message = announcement(&node(&["192.0.2.7:7443"]), &seal(), false).unwrap();
        let mut message = Message::from_vec(&message).unwrap();
        change(&mut message);
        read(&message.to_vec().unwrap(), OTHER, &seal())
    }

    fn texts(message: &mut Message, texts: &[&str]) {
        for record in &mut message.answers {
            if let RData::TXT(text) = &mut record.data {
                *text = TXT::new(texts.iter().map(|text| (*text).to_owned()).collect());
            }
        }
    }

    #[test]
    fn what_no_member_made_is_not_believed() {
        assert!(matches!(changed(|_| {}), Ok(Said::Here(_))));
        let other = changed(|message| {
            for record in &mut message.answers {
                if let RData::A(A(ip)) = &mut record.data {
                    *ip = [192, 0, 2, 9].into();
                }
            }
        });
        assert_eq!(other, Err(Fault::Forged));
        let goodbye = changed(|message| {
            for record in &mut message.answers {
                record.ttl = 0;
            }
        });
        assert_eq!(goodbye, Err(Fault::Forged));
        let tag = format!("c={}", seal().tag);
        let forged = changed(|message| texts(message, &["v=1", &tag]));
        assert_eq!(forged, Err(Fault::Forged));
        let later = changed(|message| texts(message, &["v=2", &tag]));
        assert_eq!(later, Err(Fault::Malformed));
        let bare = changed(|message| message.answers.truncate(1));
        assert_eq!(bare, Err(Fault::Malformed));
    }

    #[test]
    fn another_cluster_of_the_same_name_has_another_tag() {
        let node = node(&["192.0.2.7:7443"]);
        let message = announcement(&node, &Seal::of(&[8; 32]), false).unwrap();
        assert_eq!(read(&message, OTHER, &seal()), Err(Fault::OtherCluster));
    }

    #[test]
    fn addresses_that_a_member_should_not_tell_are_refused() {
        for addr in [
            "127.0.0.1:7443",
            "0.0.0.0:7443",
            "224.0.0.251:5353",
            "255.255.255.255:7443",
            "192.0.2.7:0",
            "[fe80::1]:7443",
            "[::ffff:127.0.0.1]:7443",
        ] {
            let message = announcement(&node(&[addr]), &seal(), false).unwrap();
            assert_eq!(
                read(&message, OTHER, &seal()),
                Err(Fault::Malformed),
                "{addr}"
            );
        }
    }

    #[test]
    fn a_question_concerns_a_node_unless_the_asker_knows_it() {
        let own = instance_of(&[0xab; 32]);
        let asks = |known: &[(&str, u32)]| {
            let message = question(known.iter().copied()).unwrap();
            read(&message, &own, &seal()).unwrap()
        };
        assert_eq!(asks(&[]), Said::Asked);
        assert_eq!(asks(&[(OTHER, TTL)]), Said::Asked);
        assert_eq!(asks(&[(&own, TTL / 2 - 1)]), Said::Asked);
        assert_eq!(asks(&[(OTHER, TTL), (&own, TTL / 2)]), Said::Nothing);
        for (name, kind, said) in [
            (
                format!("{own}._stoq._udp.local."),
                RecordType::SRV,
                Said::Asked,
            ),
            (format!("{own}-7443.local."), RecordType::A, Said::Asked),
            ("_STOQ._udp.Local.".to_owned(), RecordType::ANY, Said::Asked),
            (
                format!("{own}.local.example."),
                RecordType::A,
                Said::Nothing,
            ),
            (
                "_ipp._tcp.local.".to_owned(),
                RecordType::PTR,
                Said::Nothing,
            ),
        ] {
            let mut message = Message::query();
            message.add_query(Query::query(Name::from_ascii(&name).unwrap(), kind));
            let read = read(&message.to_vec().unwrap(), &own, &seal());
            assert_eq!(read, Ok(said), "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_passed_over(bytes in prop::collection::vec(any::<u8>(), 0..MESSAGE_BYTES_MAX + 9)) {
            let said = read(&bytes, OTHER, &seal());
            prop_assert!(!matches!(said, Ok(Said::Here(_) | Said::Leaves(_))));
        }

        #[test]
        fn a_message_with_a_changed_byte_moves_no_address(at in 0usize..2_000, to in any::<u8>()) {
            let node = node(&["192.0.2.7:7443", "[2001:db8::7]:7443"]);
            let mut message = announcement(&node, &seal(), false).unwrap();
            let at = at % message.len();
            message[at] = to;
            match read(&message, OTHER, &seal()) {
                Ok(Said::Here(heard)) => prop_assert_eq!(heard, node),
                said => prop_assert!(!matches!(said, Ok(Said::Leaves(_)))),
            }
        }
    }
}
