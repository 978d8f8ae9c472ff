//! The file as it is written: every key optional, every value with its span, every unknown key refused.
//!
//! These structs are the schema. The names that [`super::keys`] suggests and that the reference file must document are
//! read from the derived `Deserialize` itself, so there is no second list to keep in step.

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::units::{Copies, Count, RateOrOff, Size, SizeOrOff, Time};

/// A value and where it stands.
pub(super) type At<T> = Option<Spanned<T>>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawConfig {
    /// Read before this struct is: see [`super::include`]. Here so that the key is known.
    #[serde(rename = "include")]
    pub(super) _include: At<Strings>,
    pub(super) node: RawNode,
    pub(super) listen: RawListen,
    pub(super) limits: RawLimits,
    pub(super) cache: RawCache,
    pub(super) tls: RawTls,
    pub(super) log: RawLog,
    pub(super) cluster: Option<RawCluster>,
    pub(super) stoq: RawStoq,
    pub(super) shape: RawShape,
    pub(super) xdp: RawXdp,
    pub(super) shield: At<RawShield>,
    pub(super) site: Vec<Spanned<RawSite>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table: write [node]")]
pub(super) struct RawNode {
    pub(super) name: At<String>,
    pub(super) state_dir: At<String>,
    pub(super) workers: At<Count>,
    pub(super) drain: At<Time>,
    pub(super) cdn_id: At<String>,
    pub(super) zone: At<String>,
    pub(super) position: At<RawPosition>,
    pub(super) asn: At<i64>,
    pub(super) public: At<Strings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table such as { latitude = 50.11, longitude = 8.68 }"
)]
pub(super) struct RawPosition {
    pub(super) latitude: At<f64>,
    pub(super) longitude: At<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table: write [listen]")]
pub(super) struct RawListen {
    pub(super) https: At<Strings>,
    pub(super) http: At<Strings>,
    pub(super) http_scheme: At<String>,
    pub(super) stoq: At<Strings>,
    pub(super) admin: At<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table: write [limits]")]
pub(super) struct RawLimits {
    pub(super) memory: At<Size>,
    pub(super) connections: At<Count>,
    pub(super) per_prefix_connections: At<Count>,
    pub(super) header_bytes: At<Size>,
    pub(super) body_bytes: At<Size>,
    pub(super) origin_connections: At<Count>,
    pub(super) trusted_proxies: At<Strings>,
    pub(super) timeouts: RawTimeouts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table: write [limits.timeouts]"
)]
pub(super) struct RawTimeouts {
    pub(super) request_head: At<Time>,
    pub(super) idle: At<Time>,
    pub(super) origin_connect: At<Time>,
    pub(super) origin_first_byte: At<Time>,
    pub(super) origin_between_bytes: At<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table: write [cache]")]
pub(super) struct RawCache {
    pub(super) ram: At<Size>,
    pub(super) heads: At<Size>,
    pub(super) fill_buffer: At<Size>,
    pub(super) variants: At<Count>,
    pub(super) disk: Vec<Spanned<RawVolume>>,
    pub(super) disk_engine: At<String>,
    pub(super) disk_writes_per_day: At<Size>,
    pub(super) disk_scrub: At<SizeOrOff>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table such as { path = \"/var/cache/stoq\", size = \"100GiB\" }"
)]
pub(super) struct RawVolume {
    pub(super) path: At<String>,
    pub(super) size: At<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table: write [tls]")]
pub(super) struct RawTls {
    pub(super) certificates: Vec<Spanned<RawCertificate>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table such as { hosts = [\"example.com\"], cert = \"cert.pem\", key = \"key.pem\" }"
)]
pub(super) struct RawCertificate {
    pub(super) hosts: At<Strings>,
    pub(super) cert: At<String>,
    pub(super) key: At<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table: write [log]")]
pub(super) struct RawLog {
    pub(super) format: At<String>,
    pub(super) filter: At<String>,
    pub(super) access: At<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table: write [cluster]")]
pub(super) struct RawCluster {
    pub(super) name: At<String>,
    pub(super) identity: At<String>,
    pub(super) root: At<String>,
    pub(super) revoked: At<String>,
    pub(super) audit: At<String>,
    pub(super) leaf_rotation: At<Time>,
    pub(super) seeds: At<Strings>,
    pub(super) srv: At<String>,
    pub(super) mdns: At<bool>,
    pub(super) advertise: At<Strings>,
    pub(super) policy: At<String>,
    pub(super) homes: At<bool>,
    pub(super) geo: RawGeo,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table such as { city = \"GeoLite2-City.mmdb\", asn = \"GeoLite2-ASN.mmdb\" }"
)]
pub(super) struct RawGeo {
    pub(super) city: At<String>,
    pub(super) asn: At<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table: write [stoq]")]
pub(super) struct RawStoq {
    pub(super) adapt: At<bool>,
    pub(super) window_max: At<Size>,
    pub(super) mtu_max: At<Size>,
    pub(super) tcp: At<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table: write [shape]")]
pub(super) struct RawShape {
    pub(super) rate: At<Size>,
    pub(super) serve: RawClass,
    pub(super) fill: RawClass,
    pub(super) replicate: RawClass,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table such as { weight = 4, cap = \"40MB\" }"
)]
pub(super) struct RawClass {
    pub(super) weight: At<Count>,
    pub(super) cap: At<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table: write [xdp]")]
pub(super) struct RawXdp {
    pub(super) mode: At<String>,
    pub(super) interface: At<String>,
    pub(super) dry_run: At<bool>,
    pub(super) keep_capabilities: At<bool>,
    pub(super) allow: At<Strings>,
    pub(super) deny: At<Strings>,
    pub(super) retransmissions: At<RateOrOff>,
    pub(super) source: RawRates,
    pub(super) prefix: RawRates,
    pub(super) global: RawRates,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table such as { initial = \"200/s burst 1000\" }"
)]
pub(super) struct RawRates {
    pub(super) initial: At<RateOrOff>,
    pub(super) token: At<RateOrOff>,
    pub(super) long: At<RateOrOff>,
    pub(super) short: At<RateOrOff>,
    pub(super) syn: At<RateOrOff>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table: write [shield]")]
pub(super) struct RawShield {
    pub(super) nodes: At<Strings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table: write [[site]]")]
pub(super) struct RawSite {
    pub(super) name: At<String>,
    pub(super) hosts: At<Strings>,
    pub(super) origins: At<Origins>,
    pub(super) default_ttl: At<Time>,
    pub(super) heuristic: At<bool>,
    pub(super) cache_control_targets: At<Strings>,
    pub(super) client_cache_control: At<bool>,
    pub(super) stale_if_error: At<Time>,
    pub(super) stale_if_unreachable: At<Time>,
    pub(super) shield_fallback: At<bool>,
    pub(super) protect: At<Copies>,
    pub(super) dedupe_domain: At<String>,
    pub(super) residency: At<Strings>,
    pub(super) normal_accept_encoding: At<bool>,
    pub(super) query: At<RawQuery>,
    pub(super) rule: Vec<Spanned<RawRule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table such as { paths = [\"/images/*\"], query = \"ignore\" }"
)]
pub(super) struct RawRule {
    pub(super) paths: At<Strings>,
    pub(super) query: At<RawQuery>,
}

/// What counts of a query: a word, or a table with names.
#[derive(Debug)]
pub(super) enum RawQuery {
    Text(String),
    Table(Box<RawQueryTable>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "\"keep\", \"ignore\", \"sort\", or a table such as { drop = [\"utm_*\"] }"
)]
pub(super) struct RawQueryTable {
    pub(super) drop: At<Strings>,
    pub(super) only: At<Strings>,
    pub(super) sort: At<bool>,
}

impl<'de> Deserialize<'de> for RawQuery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RawQuery;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"keep\", \"ignore\", \"sort\", or a table with `drop` or `only`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawQuery, E> {
                Ok(RawQuery::Text(text.to_owned()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RawQuery, A::Error> {
                RawQueryTable::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(|table| RawQuery::Table(Box::new(table)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Origins with their spans; one of them stands for a list of one.
#[derive(Debug)]
pub(super) enum Origins {
    One(RawOrigin),
    List(Vec<Spanned<RawOrigin>>),
}

impl<'de> Deserialize<'de> for Origins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Origins;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of origins: URLs, \"dir:PATH\", or tables with `url`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Origins, E> {
                Ok(Origins::One(RawOrigin::Text(text.to_owned())))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Origins, A::Error> {
                RawOrigin::from_map(map).map(Origins::One)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Origins, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Origins::List(list))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// An origin: a string, or a table when it needs more than its URL.
#[derive(Debug)]
pub(super) enum RawOrigin {
    Text(String),
    Table(Box<RawOriginTable>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a URL, \"dir:PATH\", or a table such as { url = \"https://10.0.0.7\", host = \"example.com\" }"
)]
pub(super) struct RawOriginTable {
    pub(super) url: At<String>,
    pub(super) host: At<String>,
    pub(super) sni: At<String>,
    pub(super) ca: At<String>,
}

impl RawOrigin {
    fn from_map<'de, A: de::MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        RawOriginTable::deserialize(de::value::MapAccessDeserializer::new(map))
            .map(|table| Self::Table(Box::new(table)))
    }
}

impl<'de> Deserialize<'de> for RawOrigin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RawOrigin;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a URL, \"dir:PATH\", or a table with `url`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawOrigin, E> {
                Ok(RawOrigin::Text(text.to_owned()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RawOrigin, A::Error> {
                RawOrigin::from_map(map)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Strings with their spans; one string stands for a list of one.
#[derive(Debug)]
pub(super) enum Strings {
    One(String),
    List(Vec<Spanned<String>>),
}

/// The strings of a list key, each with its span.
pub(super) fn strings(value: &Spanned<Strings>) -> Vec<Spanned<String>> {
    match value.get_ref() {
        Strings::One(text) => vec![Spanned::new(value.span(), text.clone())],
        Strings::List(list) => list.clone(),
    }
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Strings;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of strings")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Strings, E> {
                Ok(Strings::One(text.to_owned()))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Strings, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Strings::List(list))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
