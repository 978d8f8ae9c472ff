//! Sites, certificates and volumes resolved: the keys that come as lists of tables.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderName,
    header::{CACHE_CONTROL, EXPIRES},
};
use toml::Spanned;

use super::{
    hosts, origins,
    query::{PathRule, RULES_MAX},
    raw::{At, Origins, RawConfig, RawOrigin, RawRule, RawSite, RawVolume},
    resolve::{Resolver, time},
    resolved::{Certificate, HostPattern, OriginSpec, Scheme, Site, Tls, Volume},
    units::format_size,
};

const STALE_IF_UNREACHABLE: Duration = Duration::from_secs(24 * 3600);

/// A field that may stand in a target list of RFC 9213.
fn targeted_field(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| format!("`{text}` is no field name (write \"CDN-Cache-Control\")"))?;
    if name == CACHE_CONTROL || name == EXPIRES {
        return Err(format!(
            "`{text}` is what targeted fields go before (remove it, it counts where none of them is present)"
        ));
    }
    Ok(name)
}

/// The smallest log: 64 MiB.
const VOLUME_BYTES_MIN: u64 = 64 << 20;

/// A switch that is on unless it is turned off.
fn flag(value: &At<bool>) -> bool {
    value.as_ref().is_none_or(|value| *value.get_ref())
}

impl Resolver<'_> {
    pub(super) fn volumes(&mut self, raw: &[Spanned<RawVolume>]) -> Vec<Volume> {
        let mut volumes = Vec::new();
        for (index, entry) in raw.iter().enumerate() {
            let key = format!("cache.disk[{index}]");
            let (Some(path), Some(size)) = (&entry.get_ref().path, &entry.get_ref().size) else {
                if self.whole {
                    self.fail(
                        entry,
                        &key,
                        "needs both `path` and `size` (write path = \"/var/cache/stoq\", size = \"100GiB\")",
                    );
                }
                continue;
            };
            let path = self.path(path, &format!("{key}.path"));
            let bytes = size.get_ref().0;
            if bytes < VOLUME_BYTES_MIN {
                let message = format!(
                    "{} is too small for a log (at least {}; leave `disk` out for none)",
                    format_size(bytes),
                    format_size(VOLUME_BYTES_MIN)
                );
                self.fail(size, &format!("{key}.size"), message);
            }
            volumes.push(Volume { path, size: bytes });
        }
        volumes
    }

    pub(super) fn tls(&mut self, raw: &RawConfig) -> Tls {
        let mut certificates = Vec::new();
        for (index, entry) in raw.tls.certificates.iter().enumerate() {
            let key = format!("tls.certificates[{index}]");
            let certificate = entry.get_ref();
            let hosts = self.list(&certificate.hosts, &format!("{key}.hosts"), hosts::pattern);
            if hosts.is_empty() && self.whole {
                self.fail(
                    entry,
                    &key,
                    "names no hosts (write hosts = [\"example.com\"])",
                );
            }
            let (Some(cert), Some(private)) = (&certificate.cert, &certificate.key) else {
                if self.whole {
                    self.fail(
                    entry,
                    &key,
                    "needs both `cert` and `key` (write cert = \"cert.pem\", key = \"key.pem\")",
                );
                }
                continue;
            };
            let cert = self.path(cert, &format!("{key}.cert"));
            let private = self.path(private, &format!("{key}.key"));
            certificates.push(Certificate {
                hosts,
                cert,
                key: private,
            });
        }
        Tls { certificates }
    }

    pub(super) fn site(&mut self, raw: &Spanned<RawSite>, index: usize) -> Arc<Site> {
        let key = |name: &str| format!("site[{index}].{name}");
        let site = raw.get_ref();
        let before = self.errors.len();
        let hosts = self.list(&site.hosts, &key("hosts"), hosts::pattern);
        if hosts.is_empty() && self.whole && self.errors.len() == before {
            self.fail(
                raw,
                &key("hosts"),
                "is empty (write hosts = [\"example.com\"], or hosts = [\"*\"] for every host)",
            );
        }
        let before = self.errors.len();
        let origins = self.origins(site, &key("origins"));
        if origins.is_empty() && self.whole && self.errors.len() == before {
            self.fail(
                raw,
                &key("origins"),
                "is empty (write origins = [\"http://127.0.0.1:8000\"])",
            );
        }
        let first = hosts
            .first()
            .map_or_else(String::new, HostPattern::to_string);
        let name = self.or(&site.name, &key("name"), || first, hosts::token);
        let domain = self.or(
            &site.dedupe_domain,
            &key("dedupe_domain"),
            || name.clone(),
            hosts::token,
        );
        let targets = match &site.cache_control_targets {
            None => vec![HeaderName::from_static("cdn-cache-control")],
            named => self.list(named, &key("cache_control_targets"), targeted_field),
        };
        let query = site
            .query
            .as_ref()
            .map(|value| self.query(value, &key("query")))
            .unwrap_or_default();
        let rules = self.rules(&site.rule, index);
        Arc::new(Site {
            name: name.into(),
            hosts,
            origins,
            default_ttl: site.default_ttl.as_ref().map(|value| value.get_ref().0),
            heuristic: flag(&site.heuristic),
            cache_control_targets: targets,
            client_cache_control: flag(&site.client_cache_control),
            stale_if_error: site.stale_if_error.as_ref().map(|value| value.get_ref().0),
            stale_if_unreachable: time(&site.stale_if_unreachable, STALE_IF_UNREACHABLE),
            shield_fallback: flag(&site.shield_fallback),
            protect: site.protect.as_ref().map_or(0, |value| value.get_ref().0),
            dedupe_domain: domain.into(),
            residency: self.residency(&site.residency, &key("residency")),
            normal_accept_encoding: site
                .normal_accept_encoding
                .as_ref()
                .is_some_and(|value| *value.get_ref()),
            query,
            rules,
        })
    }

    fn rules(&mut self, rules: &[Spanned<RawRule>], site: usize) -> Vec<PathRule> {
        if let Some(beyond) = rules.get(RULES_MAX) {
            let message = format!(
                "is one of {} rules (at most {RULES_MAX}; a rule may have many paths)",
                rules.len()
            );
            self.fail(beyond, &format!("site[{site}].rule[{RULES_MAX}]"), message);
        }
        rules
            .iter()
            .enumerate()
            .filter_map(|(index, rule)| {
                self.path_rule(rule, &format!("site[{site}].rule[{index}]"))
            })
            .collect()
    }

    fn origins(&mut self, site: &RawSite, key: &str) -> Vec<OriginSpec> {
        let Some(value) = &site.origins else {
            return Vec::new();
        };
        let mut found: Vec<OriginSpec> = Vec::new();
        match value.get_ref() {
            Origins::One(one) => found.extend(self.origin(one, value.span(), key)),
            Origins::List(list) => {
                for (index, item) in list.iter().enumerate() {
                    found.extend(self.origin(
                        item.get_ref(),
                        item.span(),
                        &format!("{key}[{index}]"),
                    ));
                }
            }
        }
        if found.len() > 1
            && found
                .iter()
                .any(|origin| matches!(origin, OriginSpec::Directory(_)))
        {
            self.fail(
                value,
                key,
                "mixes a directory with other origins (a directory stands alone)",
            );
        }
        found
    }

    fn origin(
        &mut self,
        raw: &RawOrigin,
        span: std::ops::Range<usize>,
        key: &str,
    ) -> Option<OriginSpec> {
        let dir = self
            .sources
            .of(span.start)
            .map(|source| source.dir.clone())
            .unwrap_or_default();
        let table = match raw {
            RawOrigin::Text(text) => {
                return self.parsed(&Spanned::new(span, text.clone()), key, |text| {
                    origins::origin(text, &dir)
                });
            }
            RawOrigin::Table(table) => table,
        };
        let Some(url) = &table.url else {
            if self.whole {
                self.fail(
                    &Spanned::new(span, ()),
                    key,
                    "has no `url` (write { url = \"https://10.0.0.7\", host = \"example.com\" })",
                );
            }
            return None;
        };
        let mut origin = self.parsed(url, &format!("{key}.url"), origins::url)?;
        let secure = origin.scheme == Scheme::Https;
        origin.host_header = table
            .host
            .as_ref()
            .and_then(|value| self.parsed(value, &format!("{key}.host"), origins::host_header));
        if let Some(value) = &table.sni {
            if !secure {
                self.fail(
                    value,
                    &format!("{key}.sni"),
                    "has no meaning for http:// (write https://, or remove it)",
                );
            }
            origin.sni = self.parsed(value, &format!("{key}.sni"), hosts::host);
        }
        if let Some(value) = &table.ca {
            if !secure {
                self.fail(
                    value,
                    &format!("{key}.ca"),
                    "has no meaning for http:// (write https://, or remove it)",
                );
            }
            origin.ca = Some(self.path(value, &format!("{key}.ca")));
        }
        Some(OriginSpec::Http(origin))
    }
}
