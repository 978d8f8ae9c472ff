//! The resolved configuration as TOML, for `config show`: every key with the value in force.
//!
//! Nothing in it is secret: keys and identities are named by their files, and URLs with passwords are refused at load.
//! Invariant: what is written loads again to the same configuration.

use std::{fmt::Display, path::Path};

use super::{
    resolved::{Config, OriginSpec},
    units::{OFF, PacketRate, format_duration, format_packet_rate, format_size},
};

impl Config {
    /// Every key and its value in force, as TOML that loads again.
    pub fn to_toml(&self) -> String {
        let mut out = Writer::default();
        out.table("[node]");
        out.key("name", quoted(&self.node.name));
        out.key("state_dir", path(&self.node.state_dir));
        out.key("workers", self.node.workers);
        out.key("drain", time(self.node.drain));
        out.key("cdn_id", quoted(&self.node.cdn_id));
        if let Some(zone) = &self.node.zone {
            out.key("zone", quoted(zone));
        }
        if let Some(at) = self.node.position {
            let (latitude, longitude) = (at.latitude(), at.longitude());
            let table = format!("{{ latitude = {latitude:?}, longitude = {longitude:?} }}");
            out.key("position", table);
        }
        if let Some(asn) = self.node.asn {
            out.key("asn", asn);
        }
        out.key("public", list(&self.node.public));

        out.table("[listen]");
        out.key("https", list(&self.listen.https));
        out.key("http", list(&self.listen.http));
        out.key("http_scheme", quoted(self.listen.http_scheme.as_str()));
        out.key("stoq", list(&self.listen.stoq));
        if let Some(admin) = &self.listen.admin {
            out.key("admin", quoted(&admin.to_string()));
        }

        out.table("[limits]");
        out.key("memory", size(self.limits.memory));
        out.key("connections", self.limits.connections);
        if let Some(connections) = self.limits.per_prefix_connections {
            out.key("per_prefix_connections", connections);
        }
        out.key("header_bytes", size(self.limits.header_bytes as u64));
        out.key("body_bytes", size(self.limits.body_bytes));
        out.key("origin_connections", self.limits.origin_connections);
        out.key("trusted_proxies", list(&self.limits.trusted_proxies));

        let timeouts = &self.limits.timeouts;
        out.table("[limits.timeouts]");
        out.key("request_head", time(timeouts.request_head));
        out.key("idle", time(timeouts.idle));
        out.key("origin_connect", time(timeouts.origin_connect));
        out.key("origin_first_byte", time(timeouts.origin_first_byte));
        out.key("origin_between_bytes", time(timeouts.origin_between_bytes));

        out.table("[cache]");
        out.key("ram", size(self.cache.ram));
        out.key("heads", size(self.cache.heads));
        out.key("fill_buffer", size(self.cache.fill_buffer));
        out.key("variants", self.cache.variants);
        let volumes = self.cache.disk.iter().map(|volume| {
            let (path, size) = (path(&volume.path), size(volume.size));
            format!("{{ path = {path}, size = {size} }}")
        });
        let volumes: Vec<String> = volumes.collect();
        out.key("disk", format!("[{}]", volumes.join(", ")));
        out.key("disk_engine", quoted(self.cache.disk_engine.as_str()));
        if let Some(bytes) = self.cache.disk_writes_per_day {
            out.key("disk_writes_per_day", size(bytes));
        }
        let scrub = self.cache.disk_scrub;
        out.key("disk_scrub", scrub.map_or_else(|| quoted(OFF), size));

        for certificate in &self.tls.certificates {
            out.table("[[tls.certificates]]");
            out.key("hosts", list(&certificate.hosts));
            out.key("cert", path(&certificate.cert));
            out.key("key", path(&certificate.key));
        }

        out.table("[log]");
        out.key("format", quoted(self.log.format.as_str()));
        out.key("filter", quoted(&self.log.filter));
        out.key("access", self.log.access);

        if let Some(cluster) = &self.cluster {
            out.table("[cluster]");
            out.key("name", quoted(&cluster.name));
            out.key("identity", path(&cluster.identity));
            out.key("root", path(&cluster.root));
            if let Some(revoked) = &cluster.revoked {
                out.key("revoked", path(revoked));
            }
            if let Some(audit) = &cluster.audit {
                out.key("audit", path(audit));
            }
            out.key("leaf_rotation", time(cluster.leaf_rotation));
            out.key("seeds", list(&cluster.seeds));
            if let Some(name) = &cluster.srv {
                out.key("srv", quoted(name));
            }
            out.key("mdns", cluster.mdns);
            out.key("advertise", list(&cluster.advertise));
            out.key("policy", quoted(cluster.policy.as_str()));
            out.key("homes", cluster.homes);
            let geo = [("city", &cluster.geo.city), ("asn", &cluster.geo.asn)];
            let geo: Vec<String> = geo
                .into_iter()
                .filter_map(|(key, file)| Some(format!("{key} = {}", path(file.as_ref()?))))
                .collect();
            if !geo.is_empty() {
                out.key("geo", format!("{{ {} }}", geo.join(", ")));
            }
        }
        out.table("[stoq]");
        out.key("adapt", self.stoq.adapt);
        out.key("window_max", size(self.stoq.window_max));
        out.key("mtu_max", size(self.stoq.mtu_max.into()));
        out.key("tcp", self.stoq.tcp);

        let shape = &self.shape;
        out.table("[shape]");
        if let Some(rate) = shape.rate {
            out.key("rate", size(rate));
        }
        for (name, class) in [
            ("serve", &shape.serve),
            ("fill", &shape.fill),
            ("replicate", &shape.replicate),
        ] {
            out.table(&format!("[shape.{name}]"));
            out.key("weight", class.weight);
            if let Some(cap) = class.cap {
                out.key("cap", size(cap));
            }
        }
        let xdp = &self.xdp;
        out.table("[xdp]");
        out.key("mode", quoted(xdp.mode.as_str()));
        if let Some(interface) = &xdp.interface {
            out.key("interface", quoted(interface));
        }
        out.key("dry_run", xdp.dry_run);
        out.key("keep_capabilities", xdp.keep_capabilities);
        out.key("allow", list(&xdp.allow));
        out.key("deny", list(&xdp.deny));
        out.key("retransmissions", rate(xdp.retransmissions));
        for (name, rates) in [
            ("source", &xdp.source),
            ("prefix", &xdp.prefix),
            ("global", &xdp.global),
        ] {
            out.table(&format!("[xdp.{name}]"));
            for (class, of_class) in rates.by_class() {
                out.key(class, rate(of_class));
            }
        }
        if let Some(shield) = &self.shield {
            out.table("[shield]");
            out.key("nodes", list(&shield.nodes));
        }
        for site in &self.sites {
            out.table("[[site]]");
            out.key("name", quoted(&site.name));
            out.key("hosts", list(&site.hosts));
            out.key(
                "origins",
                format!(
                    "[{}]",
                    site.origins
                        .iter()
                        .map(origin)
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            );
            if let Some(ttl) = site.default_ttl {
                out.key("default_ttl", time(ttl));
            }
            out.key("heuristic", site.heuristic);
            out.key("cache_control_targets", list(&site.cache_control_targets));
            out.key("client_cache_control", site.client_cache_control);
            if let Some(window) = site.stale_if_error {
                out.key("stale_if_error", time(window));
            }
            out.key("stale_if_unreachable", time(site.stale_if_unreachable));
            out.key("shield_fallback", site.shield_fallback);
            match site.protect {
                0 => out.key("protect", false),
                copies => out.key("protect", copies),
            }
            out.key("dedupe_domain", quoted(&site.dedupe_domain));
            if !site.residency.is_empty() {
                out.key("residency", list(&site.residency));
            }
            out.key("normal_accept_encoding", site.normal_accept_encoding);
            out.key("query", &site.query);
            for rule in &site.rules {
                out.table("[[site.rule]]");
                out.key("paths", list(&rule.paths));
                out.key("query", &rule.query);
            }
        }
        out.text
    }
}

#[derive(Default)]
struct Writer {
    text: String,
}

impl Writer {
    fn table(&mut self, header: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(header);
        self.text.push('\n');
    }

    fn key(&mut self, name: &str, value: impl Display) {
        self.text.push_str(&format!("{name} = {value}\n"));
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

fn size(bytes: u64) -> String {
    quoted(&format_size(bytes))
}

fn rate(rate: Option<PacketRate>) -> String {
    quoted(&rate.map_or_else(|| OFF.to_owned(), format_packet_rate))
}

fn time(duration: std::time::Duration) -> String {
    quoted(&format_duration(duration))
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

fn origin(spec: &OriginSpec) -> String {
    let OriginSpec::Http(http) = spec else {
        return quoted(&spec.to_string());
    };
    if http.host_header.is_none() && http.sni.is_none() && http.ca.is_none() {
        return quoted(&spec.to_string());
    }
    let mut parts = vec![format!("url = {}", quoted(&spec.to_string()))];
    parts.extend(
        http.host_header
            .iter()
            .map(|host| format!("host = {}", quoted(host))),
    );
    parts.extend(http.sni.iter().map(|sni| format!("sni = {}", quoted(sni))));
    parts.extend(http.ca.iter().map(|ca| format!("ca = {}", path(ca))));
    format!("{{ {} }}", parts.join(", "))
}
