//! What an operator writes, and what comes of it.

use std::{fs, path::Path, time::Duration};

use stoq_node::config::{
    AdminAddr, Config, ConfigErrors, Env, HostPattern, OriginSpec, PacketRate, Role, XdpMode,
};

const EDGE: &str = r#"[node]
name = "edge-1"
state_dir = "state/edge-1"
[listen]
https = ["127.0.0.1:8443", "[::1]:8443"]
http  = ["127.0.0.1:8080"]
admin = "127.0.0.1:9100"
[cache]
ram = "256MiB"
[[site]]
hosts   = ["*"]
origins = ["http://127.0.0.1:8000"]
"#;

const SHIELD: &str = r#"[node]
name = "shield-1"
state_dir = "state/shield-1"
[listen]
stoq = ["127.0.0.1:7443"]
[[site]]
hosts   = ["*"]
origins = ["http://127.0.0.1:8000"]
"#;

const CLUSTERED: &str = r#"[shield]
nodes = ["127.0.0.1:7443"]
[cluster]
name = "demo"
identity = "state/edge-1/identity.pem"
root = "state/root.pem"
"#;

const STORED: &str = r#"disk = [{ path = "a \"b\"", size = "64MiB" }, { path = "/var/cache/stoq", size = "2TiB" }]
disk_engine = "threads"
disk_writes_per_day = "500GB"
disk_scrub = "off"
"#;

fn parse(text: &str, role: Role) -> Result<Config, ConfigErrors> {
    Config::parse("edge.toml", text, Path::new(""), &Env::none(), role)
}

/// The errors of a load that must fail, one a line.
fn errors(text: &str) -> String {
    parse(text, Role::Edge)
        .expect_err("the file is wrong")
        .to_string()
}

#[test]
fn the_reference_file_of_an_edge_loads() {
    let config = parse(EDGE, Role::Edge).unwrap();
    assert_eq!(config.node.name, "edge-1");
    assert_eq!(config.node.state_dir, Path::new("state/edge-1"));
    assert_eq!(config.node.drain, Duration::from_secs(30));
    assert_eq!(config.listen.https.len(), 2);
    assert_eq!(
        config.listen.admin,
        Some(AdminAddr::Tcp("127.0.0.1:9100".parse().unwrap()))
    );
    assert_eq!(config.cache.ram, 256 << 20);
    assert_eq!(config.sites[0].hosts, [HostPattern::Any]);
    assert_eq!(&*config.sites[0].name, "*");
    assert_eq!(
        config.sites[0].origins[0].to_string(),
        "http://127.0.0.1:8000"
    );
    assert_eq!(
        config.position("site[0].origins[0]").to_string(),
        "edge.toml:12:12"
    );
    assert!(config.cluster.is_none() && config.shield.is_none());
}

#[test]
fn the_reference_file_of_a_shield_loads_and_so_does_an_edge_behind_it() {
    let shield = parse(SHIELD, Role::Shield).unwrap();
    let cluster = shield.cluster.unwrap();
    assert_eq!(cluster.identity, Path::new("state/shield-1/identity.pem"));
    let edge = parse(&format!("{EDGE}{CLUSTERED}"), Role::Edge).unwrap();
    assert_eq!(edge.shield.unwrap().nodes[0].to_string(), "127.0.0.1:7443");
    let cluster = edge.cluster.unwrap();
    assert_eq!(
        (cluster.name.as_str(), cluster.root.as_path()),
        ("demo", Path::new("state/root.pem"))
    );
    assert_eq!(edge.node.cdn_id, "demo");
}

#[test]
fn one_load_reports_everything_that_is_wrong() {
    let text = r#"[node]
nmae = "x"
drain = 30
workers = 0
[cache]
ram = "256"
heads = "-1MiB"
[listen]
https = ["127.0.0.1:8443", "localhost:8443", 5]
admin = "0.0.0.0:9100"
[[site]]
host = ["*"]
origins = ["public", { url = "http://a", sni = "b" }]
"#;
    let found = errors(text);
    let expected = [
        "edge.toml:2:1: node.nmae: unknown key (did you mean `name`?)",
        "edge.toml:3:9: node.drain: `30` has no unit (write \"30s\" or \"30ms\")",
        "edge.toml:4:11: node.workers: `0` is zero",
        "edge.toml:6:7: cache.ram: `256` has no unit (write \"256MiB\" or \"256KiB\")",
        "edge.toml:7:9: cache.heads: `-1MiB` is negative",
        "edge.toml:9:28: listen.https: `localhost:8443` is no IP address",
        "edge.toml:9:46: listen.https[2]: invalid type: integer `5`, expected a string",
        "edge.toml:10:9: listen.admin: 0.0.0.0:9100 can be reached by other machines (write \"127.0.0.1:9100\"",
        "edge.toml:12:1: site[0].host: unknown key (did you mean `hosts`?)",
        "edge.toml:13:12: site[0].origins[0]: `public` is neither a URL nor a directory",
        "site[0].origins[1].sni: has no meaning for http://",
    ];
    for line in expected {
        assert!(found.contains(line), "missing: {line}\nin:\n{found}");
    }
    let line = |line: &str| line.split(':').nth(1).unwrap().parse::<usize>().unwrap();
    assert!(found.lines().map(line).is_sorted(), "{found}");
    assert_eq!(found.lines().count(), expected.len(), "{found}");
}

#[test]
fn keys_are_checked_against_each_other() {
    let site = "[[site]]\nhosts = [\"a.example\", \"b.example\"]\norigins = [\"dir:public\"]\n";
    let listen = "[listen]\nhttps = [\"127.0.0.1:8443\"]\n";
    for (text, expected) in [
        (listen.to_owned(), "edge.toml: site: there is no site"),
        (
            site.to_owned(),
            "edge.toml: listen.https: an edge needs a listener",
        ),
        (
            format!("{listen}{site}[[site]]\nhosts = [\"B.example\"]\norigins = [\"dir:x\"]\n"),
            "edge.toml:7:10: site[1].hosts[0]: `b.example` belongs to the site at edge.toml:4:9 already",
        ),
        (
            format!(
                "{listen}{site}[[site]]\nname = \"a.example\"\nhosts = [\"c.example\"]\norigins = [\"dir:x\"]\n"
            ),
            "edge.toml:7:8: site[1].name: the name `a.example` is taken by the site at edge.toml:3:1",
        ),
        (
            format!("{listen}http = [\"0.0.0.0:8443\"]\n{site}"),
            "edge.toml:3:9: listen.http[0]: 0.0.0.0:8443 is taken by 127.0.0.1:8443 of listen.https[0] at edge.toml:2:10",
        ),
        (
            format!("{listen}admin = \"127.0.0.1:8443\"\n{site}"),
            "edge.toml:3:9: listen.admin: 127.0.0.1:8443 is taken by",
        ),
        (
            format!("{listen}stoq = [\"127.0.0.1:7443\"]\n{site}"),
            "edge.toml:3:8: listen.stoq: other nodes are spoken to as a member",
        ),
        (
            format!("{listen}{site}[shield]\nnodes = [\"a:1\"]\n"),
            "edge.toml:6:1: shield: a shield is spoken to as a member",
        ),
        (
            format!("{listen}{site}[shield]\n[cluster]\n"),
            "edge.toml:6:1: shield.nodes: is empty",
        ),
        (
            format!("{listen}{site}[limits]\nmemory = \"256MiB\"\n"),
            "edge.toml:7:10: limits.memory: 256MiB is less than its parts: cache.ram 256MiB + cache.heads 32MiB",
        ),
        (
            format!("{listen}[[site]]\nhosts = [\"*\"]\norigins = [\"dir:a\", \"http://b\"]\n"),
            "edge.toml:5:11: site[0].origins: mixes a directory with other origins",
        ),
        (
            format!("{listen}{site}[log]\nfilter = \"stoq=loud\"\n"),
            "edge.toml:7:10: log.filter: `stoq=loud` is no filter",
        ),
        (
            format!("{listen}{}", site.replace("[[site]]", "[site]")),
            "write [[site]], with two brackets",
        ),
        (
            format!("{listen}{site}[tls]\ncertificates = [{{ hosts = [\"a\"], cert = \"c\" }}]\n"),
            "needs both `cert` and `key`",
        ),
        (
            format!("{listen}{site}[cache]\ndisk = [{{ path = \"c\" }}]\n"),
            "edge.toml:7:9: cache.disk[0]: needs both `path` and `size`",
        ),
        (
            format!("{listen}{site}[cache]\ndisk = [{{ path = \"c\", size = \"63MiB\" }}]\n"),
            "edge.toml:7:30: cache.disk[0].size: 63MiB is too small for a log (at least 64MiB",
        ),
        (
            format!(
                "{listen}{site}[cache]\ndisk = [\n{{ path = \"c\", size = \"1GiB\" }},\n{{ path = \"./c/\", size = \"1GiB\" }},\n]\n"
            ),
            "edge.toml:9:10: cache.disk[1].path: ",
        ),
        (
            format!(
                "[node]\nstate_dir = \"s\"\n{listen}{site}[cache]\ndisk = [{{ path = \"s\", size = \"1GiB\" }}]\n"
            ),
            "is taken by node.state_dir (give it a directory of its own)",
        ),
        (
            format!("{listen}{site}[cache]\ndisk_engine = \"uring\"\n"),
            "edge.toml:7:15: cache.disk_engine: `uring` is no engine (write \"auto\", \"io_uring\" or \"threads\")",
        ),
        (
            format!("{listen}{site}[cache]\ndisk = [{{ path = \"c\", sise = \"1GiB\" }}]\n"),
            "cache.disk[0].sise: unknown key (did you mean `size`?)",
        ),
        (
            format!(
                "{listen}{site}[limits]\nmemory = \"1100MiB\"\n[cache]\ndisk = [{{ path = \"c\", size = \"100GiB\" }}]\n"
            ),
            "+ 150MiB for the index of cache.disk",
        ),
    ] {
        let found = errors(&text);
        assert!(
            found.contains(expected),
            "missing: {expected}\nin:\n{found}"
        );
        assert_eq!(found.lines().count(), 1, "one cause, one line: {found}");
    }
}

#[test]
fn a_shield_is_told_what_belongs_to_an_edge() {
    let found = parse(EDGE, Role::Shield).unwrap_err().to_string();
    assert!(
        found.contains("listen.stoq: a shield needs a listener"),
        "{found}"
    );
    assert!(
        found.contains("edge.toml:5:9: listen.https: a shield serves edges and no clients"),
        "{found}"
    );
}

#[test]
fn broken_toml_is_placed() {
    let found = errors("[node]\nname = \"x\nworkers = 2\n");
    assert!(
        found.starts_with("edge.toml:2:") && found.contains("not TOML"),
        "{found}"
    );
    let found = errors("[node]\nname = \"x\"\nname = \"y\"\n");
    assert!(
        found.starts_with("edge.toml:3:1: not TOML: duplicate key"),
        "{found}"
    );
}

#[test]
fn variables_override_the_file_and_are_named_in_errors() {
    let load = |variables: &[(&str, &str)]| {
        Config::parse(
            "edge.toml",
            EDGE,
            Path::new(""),
            &variables.iter().copied().collect::<Env>(),
            Role::Edge,
        )
    };
    let config = load(&[
        ("STOQ__NODE__NAME", "4"),
        ("STOQ__NODE__WORKERS", "3"),
        ("STOQ__LIMITS__TIMEOUTS__IDLE", "20s"),
        ("STOQ__LISTEN__HTTP", "127.0.0.1:9090"),
        ("STOQ__LISTEN__HTTPS", "[\"127.0.0.1:443\"]"),
        ("STOQ__LOG__ACCESS", "false"),
        ("PATH", "/bin"),
    ])
    .unwrap();
    assert_eq!((config.node.name.as_str(), config.node.workers), ("4", 3));
    assert_eq!(config.limits.timeouts.idle, Duration::from_secs(20));
    assert_eq!(config.listen.http, ["127.0.0.1:9090".parse().unwrap()]);
    assert_eq!(config.listen.https, ["127.0.0.1:443".parse().unwrap()]);
    assert!(!config.log.access);
    for (name, value, expected) in [
        (
            "STOQ__NODE__NAEM",
            "x",
            "environment variable STOQ__NODE__NAEM: unknown key `naem` (did you mean `name`?",
        ),
        (
            "STOQ__NODE__DRAIN",
            "30",
            "environment variable STOQ__NODE__DRAIN: node.drain: `30` has no unit",
        ),
        (
            "STOQ__NODE__WORKERS",
            "many",
            "environment variable STOQ__NODE__WORKERS: node.workers: ",
        ),
        (
            "STOQ__NODE",
            "x",
            "environment variable STOQ__NODE: `node` is a table",
        ),
        (
            "STOQ__SITE__NAME",
            "x",
            "cannot be set from the environment",
        ),
        (
            "STOQ__LISTEN__HTTPS",
            "[1",
            "environment variable STOQ__LISTEN__HTTPS: not TOML",
        ),
    ] {
        let found = load(&[(name, value)]).unwrap_err().to_string();
        assert!(
            found.contains(expected),
            "missing: {expected}\nin:\n{found}"
        );
        assert_eq!(found.lines().count(), 1, "{found}");
    }
}

#[test]
fn included_files_add_sites_and_their_paths_are_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let main = dir.path().join("edge.toml");
    let load = || Config::load(&main, &Env::none(), Role::Edge);
    write(
        "edge.toml",
        "include = [\"sites.d/*.toml\"]\n[listen]\nhttps = [\"127.0.0.1:8443\"]\n",
    );
    write(
        "sites.d/b.toml",
        "[[site]]\nhosts = [\"b.example\"]\norigins = [\"http://b\"]\n",
    );
    write(
        "sites.d/a.toml",
        "[[site]]\nhosts = [\"a.example\"]\norigins = [\"dir:public\"]\n",
    );
    write("sites.d/.hidden.toml", "not toml at all");
    let config = load().unwrap();
    assert_eq!(
        config
            .sites
            .iter()
            .map(|site| &*site.name)
            .collect::<Vec<_>>(),
        ["a.example", "b.example"]
    );
    assert_eq!(
        config.sites[0].origins,
        [OriginSpec::Directory(dir.path().join("sites.d/public"))]
    );

    write(
        "sites.d/c.toml",
        "[[site]]\nhosts = [\"b.example\"]\norgins = [\"http://b\"]\n[listen]\nhttps = []\n",
    );
    let found = load().unwrap_err().to_string();
    assert!(
        found.contains("sites.d/c.toml:3:1: site[0].orgins: unknown key (did you mean `origins`?)"),
        "{found}"
    );
    assert!(
        found.contains("c.toml:5:1: listen.https: is set already at")
            && found.contains("edge.toml:3:9"),
        "{found}"
    );

    write("sites.d/c.toml", "include = [\"../edge.toml\"]\n");
    let found = load().unwrap_err().to_string();
    assert!(
        found.contains("sites.d/c.toml:1:12: include: ") && found.contains("includes itself"),
        "{found}"
    );

    write(
        "sites.d/c.toml",
        "include = [\"a.toml\", \"gone.toml\", \"*/x.toml\", 5]\n",
    );
    let found = load().unwrap_err().to_string();
    for expected in [
        "is included twice",
        "gone.toml: no such file",
        "a `*` in a directory",
        "c.toml:1:47: include: is no string",
    ] {
        assert!(
            found.contains(expected),
            "missing: {expected}\nin:\n{found}"
        );
    }

    write("sites.d/c.toml", &"#".repeat(2 << 20));
    assert!(
        load()
            .unwrap_err()
            .to_string()
            .contains("is larger than 1048576 bytes")
    );
    let found = Config::load(&dir.path().join("gone.toml"), &Env::none(), Role::Edge)
        .unwrap_err()
        .to_string();
    assert!(found.contains("gone.toml: no such file"), "{found}");
    assert_eq!(found.lines().count(), 1, "{found}");
}

#[test]
fn a_target_list_holds_names_of_targeted_fields_once_each() {
    for (list, expected) in [
        (r#"["Cache-Control"]"#, "is what targeted fields go before"),
        (r#"["a b"]"#, "is no field name"),
        (r#"["X-A", "x-a"]"#, "stands twice"),
    ] {
        let found = errors(&format!("{EDGE}cache_control_targets = {list}\n"));
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn what_is_shown_loads_again_to_the_same() {
    let rich = format!(
        r#"{EDGE}stale_if_unreachable = "90m"
default_ttl = "1500ms"
heuristic = false
cache_control_targets = ["Ours-Cache-Control", "CDN-Cache-Control"]
client_cache_control = false
stale_if_error = "5m"
[[site]]
name = "second"
hosts = ["Example.com", "*.example.com"]
origins = [{{ url = "https://[2001:db8::1]:8443", host = "www.example.com:81", sni = "example.com", ca = "ca \"x\".pem" }}, "http://b"]
shield_fallback = false
protect = 5
cache_control_targets = []
dedupe_domain = "shared"
{CLUSTERED}
[tls]
certificates = [{{ hosts = ["example.com"], cert = "c.pem", key = "k.pem" }}]
[limits]
trusted_proxies = ["10.1.2.3/8", "::1"]
"#
    );
    let stored = EDGE.replace("ram = \"256MiB\"\n", STORED);
    for (text, role) in [
        (EDGE, Role::Edge),
        (SHIELD, Role::Shield),
        (&rich, Role::Edge),
        (&stored, Role::Edge),
    ] {
        let shown = parse(text, role).unwrap().to_toml();
        let again = parse(&shown, role).unwrap_or_else(|errors| panic!("{errors}\nin:\n{shown}"));
        assert_eq!(again.to_toml(), shown);
    }
}

#[test]
fn what_is_on_by_default_is_turned_off_by_the_word() {
    let scrub = |text: &str| {
        let text = EDGE.replace("ram = \"256MiB\"\n", &format!("disk_scrub = {text}\n"));
        parse(&text, Role::Edge).map(|config| config.cache.disk_scrub)
    };
    assert_eq!(scrub("\"off\""), Ok(None));
    assert_eq!(scrub("\"8MiB\""), Ok(Some(8 << 20)));
    let zero = scrub("\"0B\"").expect_err("zero").to_string();
    assert!(
        zero.contains("`0B` is zero (leave the key out for its default, or write \"off\")"),
        "{zero}"
    );
}

#[test]
fn the_ways_to_treat_a_query_load_and_show_themselves() {
    for (written, shown) in [
        ("", "\"keep\""),
        ("query = \"sort\"", "\"sort\""),
        ("query = { sort = true }", "\"sort\""),
        ("query = \"ignore\"", "\"ignore\""),
        ("query = { drop = \"utm_*\" }", "{ drop = [\"utm_*\"] }"),
        (
            "query = { only = [\"v\", \"a%2Fb\"], sort = true }",
            "{ only = [\"v\", \"a%2Fb\"], sort = true }",
        ),
    ] {
        let config = parse(&format!("{EDGE}{written}\n"), Role::Edge).unwrap();
        assert_eq!(config.sites[0].query.to_string(), shown, "{written}");
    }
    let rules = "[[site.rule]]\npaths = [\"/a/*\", \"/b\"]\nquery = \"ignore\"\n[[site.rule]]\npaths = \"/c\"\nquery = { drop = [\"x\"] }\n";
    let config = parse(&format!("{EDGE}{rules}"), Role::Edge).unwrap();
    assert_eq!(config.sites[0].rules.len(), 2);
    let again = parse(&config.to_toml(), Role::Edge).unwrap();
    assert_eq!(again.sites[0].rules, config.sites[0].rules);
}

#[test]
fn what_is_wrong_with_a_query_is_said_with_its_place_and_fix() {
    for (written, said) in [
        (
            "query = \"drop\"",
            "edge.toml:13:9: site[0].query: `drop` is no way to treat a query (write \"keep\"",
        ),
        (
            "query = { drop = [\"*\"] }",
            "edge.toml:13:19: site[0].query.drop: `*` is every parameter (write query = \"ignore\"",
        ),
        (
            "query = { drop = [\"a*b\"] }",
            "`a*b` has a `*` that is not at its end",
        ),
        (
            "query = { only = [\"a=b\"] }",
            "`a=b` is no name of a parameter (write it as it stands in URLs",
        ),
        (
            "query = { drop = [] }",
            "edge.toml:13:9: site[0].query: names no parameters (write",
        ),
        (
            "query = { drop = [\"a\"], only = [\"b\"] }",
            "has both `drop` and `only` (remove one)",
        ),
        (
            "query = { dorp = [\"a\"] }",
            "site[0].query.dorp: unknown key (did you mean `drop`?)",
        ),
        ("query = 3", "edge.toml:13:9"),
        (
            "[[site.rule]]\nquery = \"sort\"",
            "site[0].rule[0].paths: has 0 paths (write 1 to 64, such as",
        ),
        (
            "[[site.rule]]\npaths = [\"/a\"]",
            "edge.toml:13:1: site[0].rule[0]: decides nothing (add query: write",
        ),
        (
            "[[site.rule]]\npaths = [\"/a/../b\"]\nquery = \"sort\"",
            "edge.toml:14:10: site[0].rule[0].paths: `/a/../b` has a dot segment",
        ),
        (
            "[[site.rule]]\npaths = [\"a?b\"]\nquery = \"sort\"",
            "`a?b` is no path (write it as it stands in URLs",
        ),
        (
            "[[site.rule]]\npaths = [\"/a\"]\nquery = \"srot\"",
            "edge.toml:15:9: site[0].rule[0].query: `srot`",
        ),
    ] {
        let errors = errors(&format!("{EDGE}{written}\n"));
        assert!(errors.contains(said), "{written}\n{errors}");
    }
}

#[test]
fn what_is_said_of_links_and_shares_loads_shows_itself_and_is_checked() {
    let tables = "[limits]\nper_prefix_connections = 7\n[stoq]\nadapt = false\nwindow_max = \"1GiB\"\nmtu_max = \"8952B\"\ntcp = true\n\
                  [shape]\nrate = \"120MB\"\nfill = { cap = \"40MB\" }\n[shape.serve]\nweight = 65535\n";
    let config = parse(&format!("{EDGE}{tables}"), Role::Edge).unwrap();
    assert_eq!(config.limits.per_prefix_connections, Some(7));
    assert!(config.stoq.tcp && !config.stoq.adapt && config.stoq.mtu_max == 8952);
    let shape = &config.shape;
    let weights = [&shape.serve, &shape.fill, &shape.replicate].map(|class| class.weight);
    assert_eq!(weights, [65_535, 4, 1]);
    assert!(shape.is_limited() && shape.fill.cap == Some(40_000_000));
    let again = parse(&config.to_toml(), Role::Edge).unwrap();
    assert_eq!((again.stoq, again.shape), (config.stoq, config.shape));
    assert!(!parse(EDGE, Role::Edge).unwrap().shape.is_limited());
    for (written, said) in [
        (
            "[stoq]\nmtu_max = \"1199B\"",
            "edge.toml:14:11: stoq.mtu_max: 1199B is not from 1200B to 65KB",
        ),
        (
            "[stoq]\nmtu_max = \"64KiB\"",
            "stoq.mtu_max: 64KiB is not from 1200B to 65KB",
        ),
        (
            "[stoq]\nwindow_max = \"4GiB\"",
            "stoq.window_max: 4GiB is not from 16MiB to 2GiB",
        ),
        (
            "[shape]\nserve = { weight = 65536 }",
            "shape.serve.weight: 65536 is too much (at most 65535)",
        ),
        (
            "[shape]\nserve = { waight = 1 }",
            "shape.serve.waight: unknown key (did you mean `weight`?)",
        ),
        ("[shape]\nrate = 5", "`5` has no unit"),
    ] {
        let found = errors(&format!("{EDGE}{written}\n"));
        assert!(found.contains(said), "{written}: {found}");
    }
    let env: Env = [
        ("STOQ__STOQ__MTU_MAX", "1300B"),
        ("STOQ__SHAPE__FILL__WEIGHT", "9"),
    ]
    .into_iter()
    .collect();
    let config = Config::parse("edge.toml", EDGE, Path::new(""), &env, Role::Edge).unwrap();
    assert_eq!((config.stoq.mtu_max, config.shape.fill.weight), (1300, 9));
}

#[test]
fn what_is_said_of_packets_loads_shows_itself_and_is_checked() {
    let text = "[xdp]\nmode = \"native\"\ninterface = \"eth0\"\nallow = [\"192.0.2.7\"]\ndeny = [\"192.0.2.9/24\", \"2001:db8::/32\"]\n\
                global = { initial = \"off\", syn = \"7/s burst 9\" }\n[xdp.source]\ninitial = \"20/s\"\n";
    let config = parse(&format!("{text}{EDGE}"), Role::Edge).unwrap();
    let xdp = &config.xdp;
    assert_eq!(xdp.mode, XdpMode::Native);
    assert_eq!(xdp.deny[0].to_string(), "192.0.2.0/24");
    assert_eq!(xdp.global.initial, None);
    let rate = |per_second, burst| Some(PacketRate { per_second, burst });
    assert_eq!(xdp.global.syn, rate(7, 9));
    assert_eq!(xdp.source.initial, rate(20, 20));
    let again = parse(&config.to_toml(), Role::Edge).unwrap();
    assert_eq!(again.xdp, config.xdp);
    assert_eq!(parse(EDGE, Role::Edge).unwrap().xdp.mode, XdpMode::Off);

    for (tables, expected) in [
        (
            "[xdp]\nmode = \"nativ\"",
            "edge.toml:2:8: xdp.mode: `nativ` is no mode (write \"off\", \"generic\" or \"native\")",
        ),
        (
            "[xdp]\nmode = \"native\"",
            "edge.toml:2:8: xdp.mode: needs the interface that clients' packets arrive on (write interface = \"eth0\"",
        ),
        (
            "[xdp]\ninterface = \"eth0/1\"",
            "xdp.interface: `eth0/1` is no interface",
        ),
        (
            "[xdp.source]\ninitail = \"5/s\"",
            "xdp.source.initail: unknown key (did you mean `initial`?)",
        ),
        (
            "[xdp.source]\ninitial = 5",
            "`5` has no unit (write \"5/s\")",
        ),
        (
            "[xdp.source]\ninitial = \"0/s\"",
            "`0/s` is zero (leave the key out for its default, or write \"off\")",
        ),
        (
            "[xdp.source]\ninitial = \"5/m\"",
            "`5/m` has the unknown unit `/m` (write \"5/s\"",
        ),
        (
            "[xdp.source]\ninitial = \"5/s bust 7\"",
            "has the unknown unit `/s bust 7`",
        ),
        (
            "[xdp.source]\ninitial = \"200000000/s\"",
            "is too large (at most 100000000/s)",
        ),
        (
            "[xdp]\nallow = [\"10.0.0.0/8\"]\ndeny = [\"10.1.0.0/8\"]",
            "edge.toml:3:9: xdp.deny[0]: 10.0.0.0/8 is in xdp.allow too",
        ),
    ] {
        let said = errors(&format!("{tables}\n{EDGE}"));
        assert!(said.contains(expected), "{tables}:\n{said}");
    }
}

#[test]
fn multicast_dns_is_off_shows_itself_and_needs_an_address_that_others_reach() {
    let edge = |stoq: &str, cluster: &str| {
        format!(
            "[listen]\nhttp = [\"127.0.0.1:80\"]\nstoq = [{stoq}]\n[cluster]\nname = \"demo\"\n{cluster}\n[[site]]\nhosts = [\"*\"]\norigins = [\"dir:public\"]\n"
        )
    };
    let plain = parse(&edge("\"192.0.2.7:7443\"", ""), Role::Edge).unwrap();
    let cluster = plain.cluster.unwrap();
    assert!(!cluster.mdns && !cluster.looks_for_others());

    for (stoq, more) in [
        ("\"192.0.2.7:7443\"", ""),
        ("\"127.0.0.1:7443\", \"[2001:db8::7]:7443\"", ""),
        ("\"127.0.0.1:7443\"", "advertise = [\"192.0.2.7:7443\"]"),
        ("\"0.0.0.0:7443\"", "advertise = [\"192.0.2.7:7443\"]"),
    ] {
        let text = edge(stoq, &format!("mdns = true\n{more}"));
        let config = parse(&text, Role::Edge).unwrap_or_else(|errors| panic!("{errors}"));
        let shown = config.to_toml();
        assert!(shown.contains("\nmdns = true\n"), "{shown}");
        let again = parse(&shown, Role::Edge).unwrap().cluster.unwrap();
        assert!(again.mdns && again.looks_for_others());
    }

    let nobody =
        "edge.toml:6:8: cluster.mdns: announces only addresses that no other machine reaches";
    for (stoq, more, said) in [
        ("\"127.0.0.1:7443\"", "", nobody),
        ("\"[::1]:7443\", \"[fe80::1]:7443\"", "", nobody),
        (
            "\"192.0.2.7:7443\"",
            "advertise = [\"127.0.0.1:7443\"]",
            nobody,
        ),
        ("", "", "cluster.mdns: others must reach this node as well"),
        (
            "\"0.0.0.0:7443\"",
            "",
            "listen.stoq: says to no other node where this one is",
        ),
    ] {
        let found = errors(&edge(stoq, &format!("mdns = true\n{more}")));
        assert!(found.contains(said), "{stoq} {more}: {found}");
    }
    let found = errors(&edge("\"192.0.2.7:7443\"", "mdns = \"on\""));
    assert!(found.contains("edge.toml:6:8: cluster.mdns"), "{found}");
}

#[test]
fn small_objects_are_put_at_their_homes_unless_an_edge_says_otherwise() {
    let text = |cluster: &str| {
        format!(
            "[listen]\nhttp = [\"127.0.0.1:80\"]\nstoq = [\"192.0.2.7:7443\"]\n[cluster]\nname = \"demo\"\n{cluster}\n[[site]]\nhosts = [\"*\"]\norigins = [\"dir:public\"]\n"
        )
    };
    let homes = |text: &str| parse(text, Role::Edge).unwrap().cluster.unwrap().homes;
    assert!(homes(&text("")) && homes(&text("homes = true")));
    let off = parse(&text("homes = false"), Role::Edge).unwrap();
    assert!(!homes(&off.to_toml()));
    let shield = format!("{SHIELD}[cluster]\nname = \"demo\"\nhomes = false\n");
    let found = parse(&shield, Role::Shield).unwrap_err().to_string();
    let said = "cluster.homes: a shield asks no edges for objects";
    assert!(found.contains(said), "{found}");
}
