//! What keys mean together: two sites for one host, two listeners for one port, a table that needs another.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Component, Path, PathBuf},
};

use super::{
    problem::ConfigErrors,
    resolved::{AdminAddr, Config, PeerPolicy, Role},
    xdp::XdpMode,
};

/// Runs every cross check.
pub(super) fn check(config: &Config, role: Role, errors: &mut ConfigErrors) {
    role_fits(config, role, errors);
    sites_are_distinct(config, errors);
    listeners_are_distinct(config, errors);
    directories_are_distinct(config, errors);
    others_can_be_found(config, role, errors);
    packets_can_be_judged(config, role, errors);
}

/// What `[xdp]` asks for needs to be there: an interface, a node that serves clients, and prefixes that are not asked two things of.
fn packets_can_be_judged(config: &Config, role: Role, errors: &mut ConfigErrors) {
    let xdp = &config.xdp;
    let listed = xdp.deny.iter().enumerate();
    for (at, prefix) in listed.filter(|(_, prefix)| xdp.allow.contains(prefix)) {
        let message = format!("{prefix} is in xdp.allow too (remove it from one of the two)");
        errors.push(config.error(&config.item("xdp.deny", at), message));
    }
    if xdp.mode == XdpMode::Off {
        return;
    }
    if role == Role::Shield {
        let message = "a shield is reached by edges alone (remove it, or write \"off\"; it belongs in the edges' file)";
        errors.push(config.error("xdp.mode", message));
    } else if xdp.interface.is_none() {
        let message = "needs the interface that clients' packets arrive on (write interface = \"eth0\", or mode = \"off\")";
        errors.push(config.error("xdp.mode", message));
    }
}

/// Each volume's directory is its own: two on one would write over each other.
fn directories_are_distinct(config: &Config, errors: &mut ConfigErrors) {
    // Other spellings of a path, such as `./a/`, have the same names.
    let place = |path: &Path| {
        let named = path.components().filter(|part| *part != Component::CurDir);
        named.collect::<PathBuf>()
    };
    let mut taken = BTreeMap::from([(place(&config.node.state_dir), "node.state_dir".to_owned())]);
    for (index, volume) in config.cache.disk.iter().enumerate() {
        let key = format!("cache.disk[{index}]");
        let path = place(&volume.path);
        if let Some(first) = taken.get(&path) {
            let message = format!(
                "{} is taken by {first} (give it a directory of its own)",
                path.display()
            );
            errors.push(config.error(&format!("{key}.path"), message));
        } else {
            taken.insert(path, key);
        }
    }
}

fn role_fits(config: &Config, role: Role, errors: &mut ConfigErrors) {
    let listen = &config.listen;
    match role {
        Role::Edge => {
            if listen.https.is_empty() && listen.http.is_empty() {
                errors.push(config.error("listen.https", "an edge needs a listener (write [listen] https = [\"0.0.0.0:443\", \"[::]:443\"])"));
            }
            if !listen.stoq.is_empty() && config.cluster.is_none() {
                errors.push(config.error("listen.stoq", "other nodes are spoken to as a member of a cluster (add [cluster] with name, identity and root)"));
            }
            if config.shield.is_some() && config.cluster.is_none() {
                let message = "a shield is spoken to as a member of a cluster (add [cluster] with name, identity and root)";
                errors.push(config.error("shield", message));
            }
        }
        Role::Shield => {
            if listen.stoq.is_empty() {
                errors.push(config.error("listen.stoq", "a shield needs a listener for edges (write [listen] stoq = [\"0.0.0.0:7443\"])"));
            }
            for (key, addrs) in [
                ("listen.https", &listen.https),
                ("listen.http", &listen.http),
            ] {
                if !addrs.is_empty() {
                    errors.push(config.error(key, "a shield serves edges and no clients (remove it, or run this file with stoq-edge)"));
                }
            }
            if config.shield.is_some() {
                errors.push(config.error("shield", "a shield asks the origins itself (remove [shield]; it belongs in the edges' file)"));
            }
        }
    }
}

/// Who looks for others must be found by them too: what nodes say to each other goes both ways.
fn others_can_be_found(config: &Config, role: Role, errors: &mut ConfigErrors) {
    let Some(cluster) = &config.cluster else {
        return;
    };
    let keys = [
        ("cluster.seeds", !cluster.seeds.is_empty()),
        ("cluster.srv", cluster.srv.is_some()),
        ("cluster.mdns", cluster.mdns),
        ("cluster.advertise", !cluster.advertise.is_empty()),
        ("cluster.policy", cluster.policy != PeerPolicy::default()),
    ];
    let written = keys.iter().find(|(_, set)| *set).map(|(key, _)| *key);
    match (role, written) {
        (Role::Shield, _) if cluster.policy != PeerPolicy::default() || !cluster.homes => {
            let key = match cluster.homes {
                true => "cluster.policy",
                false => "cluster.homes",
            };
            let message =
                "a shield asks no edges for objects (remove it; it belongs in the edges' file)";
            errors.push(config.error(key, message));
        }
        (Role::Edge, Some(key)) if config.listen.stoq.is_empty() => {
            let message =
                "others must reach this node as well (write [listen] stoq = [\"192.0.2.7:7443\"])";
            errors.push(config.error(key, message));
        }
        (Role::Edge | Role::Shield, _) => {}
    }
    let only_wildcards = config
        .listen
        .stoq
        .iter()
        .all(|addr| addr.ip().is_unspecified());
    if cluster.looks_for_others() && only_wildcards && cluster.advertise.is_empty() {
        let message = "says to no other node where this one is (write an address of this machine, or cluster.advertise = [\"192.0.2.7:7443\"])";
        if !config.listen.stoq.is_empty() {
            errors.push(config.error("listen.stoq", message));
        }
    }
    let announced = match cluster.advertise.as_slice() {
        [] => &config.listen.stoq,
        advertised => advertised,
    };
    if cluster.mdns && !announced.is_empty() && announced.iter().all(stays_on_this_machine) {
        let message = "announces only addresses that no other machine reaches (write an address of a network in listen.stoq or cluster.advertise; processes on one machine find each other by cluster.seeds)";
        errors.push(config.error("cluster.mdns", message));
    }
}

/// Whether an address is of no use to other machines: loopback, and those of IPv6 for a single link, which mean something only with the number that this machine gives its interface.
fn stays_on_this_machine(addr: &SocketAddr) -> bool {
    match addr.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

fn sites_are_distinct(config: &Config, errors: &mut ConfigErrors) {
    if config.sites.is_empty() {
        let message = "there is no site (write [[site]] with hosts = [\"*\"] and origins = [\"http://127.0.0.1:8000\"])";
        errors.push(config.error("site", message));
    }
    let mut names = BTreeMap::new();
    let mut hosts = BTreeMap::new();
    for (index, site) in config.sites.iter().enumerate() {
        if let Some(first) = names.insert(site.name.clone(), index) {
            let place = config.position(&format!("site[{first}]"));
            let named = format!("site[{index}].name");
            let key = if config.has(&named) {
                named
            } else {
                format!("site[{index}]")
            };
            errors.push(config.error(
                &key,
                format!(
                    "the name `{}` is taken by the site at {place} (give this one another)",
                    site.name
                ),
            ));
        }
        for (at, host) in site.hosts.iter().enumerate() {
            if let Some(first) = hosts.insert(host.clone(), index) {
                let place = config.position(&format!("site[{first}].hosts"));
                let message = format!(
                    "`{host}` belongs to the site at {place} already (remove it from one of the two)"
                );
                errors
                    .push(config.error(&config.item(&format!("site[{index}].hosts"), at), message));
            }
        }
    }
    let mut certified = BTreeMap::new();
    for (index, certificate) in config.tls.certificates.iter().enumerate() {
        for (at, host) in certificate.hosts.iter().enumerate() {
            if let Some(first) = certified.insert(host.clone(), index) {
                let place = config.position(&format!("tls.certificates[{first}].hosts"));
                let message = format!(
                    "`{host}` has the certificate at {place} already (remove it from one of the two)"
                );
                errors.push(config.error(
                    &config.item(&format!("tls.certificates[{index}].hosts"), at),
                    message,
                ));
            }
        }
    }
}

fn listeners_are_distinct(config: &Config, errors: &mut ConfigErrors) {
    let listen = &config.listen;
    let admin: Vec<SocketAddr> = match &listen.admin {
        Some(AdminAddr::Tcp(addr)) => vec![*addr],
        Some(AdminAddr::Unix(_)) | None => Vec::new(),
    };
    // Which transports a key binds: https both, for HTTP/3 and for HTTP/2.
    let keys = [
        ("listen.https", &listen.https, true, true),
        ("listen.http", &listen.http, true, false),
        ("listen.stoq", &listen.stoq, false, true),
        ("listen.admin", &admin, true, false),
    ];
    let mut bound: Vec<(String, SocketAddr, bool, bool)> = Vec::new();
    for (key, addrs, tcp, udp) in keys {
        for (index, addr) in addrs.iter().enumerate() {
            let place = config.item(key, index);
            let clash = bound
                .iter()
                .find(|(_, other, t, u)| overlap(*addr, *other) && ((tcp && *t) || (udp && *u)));
            if let Some((other, there, ..)) = clash {
                let message = format!(
                    "{addr} is taken by {there} of {other} at {} (choose another port)",
                    config.position(other)
                );
                errors.push(config.error(&place, message));
            }
            bound.push((place, *addr, tcp, udp));
        }
    }
}

/// Whether binding both fails: the same port, and the same address or one of them the wildcard of its family. Port 0 never clashes.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let wildcard = |ip: IpAddr| ip.is_unspecified();
    a.port() == b.port()
        && a.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || wildcard(a.ip()) || wildcard(b.ip()))
}
