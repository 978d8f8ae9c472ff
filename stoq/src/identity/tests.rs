//! The judgement about peers, and the files it rests on.

use std::time::Duration;

use rcgen::{
    BasicConstraints, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
    SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::leaf::LeafIssuer;
use super::root::params;
use super::*;

const DAY: u64 = 86_400;

fn at(days: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(days * DAY))
}

fn days(from: u64, to: u64) -> Validity {
    Validity {
        not_before: at(from),
        not_after: at(to),
    }
}

fn root() -> ClusterRoot {
    ClusterRoot::generate("demo", days(0, 1000)).unwrap()
}

/// What a node with this identity shows at `now`.
fn chain(file: IdentityFile, bounds: Validity, now: UnixTime) -> Vec<CertificateDer<'static>> {
    let (key, certificate, _) = file.into_parts();
    LeafIssuer::new(key, certificate, bounds, Rotation::DAILY)
        .current(now)
        .unwrap()
        .certified
        .cert
        .clone()
}

fn edge_chain(root: &ClusterRoot, now: UnixTime) -> Vec<CertificateDer<'static>> {
    chain(
        root.issue(
            "edge-1",
            &[Role::Edge, Role::Fetch("a.b".into())],
            days(10, 375),
        )
        .unwrap(),
        days(10, 375),
        now,
    )
}

#[test]
fn good_chain_tells_name_roles_and_end() {
    let root = root();
    let certs = edge_chain(&root, at(20));
    let peer = check(&certs, root.certificate(), at(21)).unwrap();
    assert_eq!(peer.name, "edge-1");
    assert_eq!(peer.roles, [Role::Edge, Role::Fetch("a.b".into())]);
    assert_eq!(peer.not_after, at(23));
    assert!(peer.valid_at(at(23)) && !peer.valid_at(at(24)));
}

#[test]
fn node_id_outlives_leaves_and_differs_between_keys() {
    let root = root();
    let file = root.issue("edge-1", &[], days(10, 375)).unwrap();
    let again = IdentityFile::from_pem(&file.to_pem()).unwrap();
    let id = |file, now| {
        check(&chain(file, days(10, 375), now), root.certificate(), now)
            .unwrap()
            .node_id
    };
    assert_eq!(id(file, at(20)), id(again, at(30)));
    let other = root.issue("edge-1", &[], days(10, 375)).unwrap();
    assert_ne!(
        id(other, at(20)),
        check(&edge_chain(&root, at(20)), root.certificate(), at(20))
            .unwrap()
            .node_id
    );
}

#[test]
fn validity_is_judged_with_five_minutes_of_tolerance() {
    let root = root();
    let certs = edge_chain(&root, at(20));
    let shift = |now: UnixTime, secs: i64| {
        UnixTime::since_unix_epoch(Duration::from_secs(
            now.as_secs().checked_add_signed(secs).unwrap(),
        ))
    };
    let code =
        |now| check(&certs, root.certificate(), now).map_err(|refusal| refusal.code().reason());
    assert!(code(shift(at(20), -300)).is_ok());
    assert!(matches!(
        check(&certs, root.certificate(), shift(at(20), -301)),
        Err(Refusal::NotYetValid {
            link: Link::Leaf,
            ..
        })
    ));
    assert!(code(shift(at(23), 300)).is_ok());
    assert!(matches!(
        check(&certs, root.certificate(), shift(at(23), 301)),
        Err(Refusal::Expired {
            link: Link::Leaf,
            ..
        })
    ));
    // The identity's own end comes first here.
    let short = chain(
        root.issue("e", &[], days(10, 21)).unwrap(),
        days(10, 21),
        at(20),
    );
    assert!(matches!(
        check(&short, root.certificate(), at(22)),
        Err(Refusal::Expired {
            link: Link::Identity,
            ..
        })
    ));
    // And the root's.
    let old = ClusterRoot::generate("demo", days(0, 15)).unwrap();
    let certs = edge_chain(&old, at(20));
    assert!(matches!(
        check(&certs, old.certificate(), at(20)),
        Err(Refusal::Expired {
            link: Link::Root,
            ..
        })
    ));
}

#[test]
fn another_root_is_foreign_even_under_the_same_cluster_name() {
    let (ours, theirs) = (root(), root());
    let certs = edge_chain(&theirs, at(20));
    assert!(matches!(
        check(&certs, ours.certificate(), at(20)),
        Err(Refusal::Foreign(_))
    ));
}

#[test]
fn another_cluster_of_the_same_root_key_is_told_apart() {
    let ours = root();
    let theirs = ours.for_cluster("other").unwrap();
    let certs = edge_chain(&theirs, at(20));
    let refusal = check(&certs, ours.certificate(), at(20)).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::Cluster {
            theirs: "other".into(),
            ours: "demo".into()
        }
    );
}

#[test]
fn chains_of_another_shape_are_refused() {
    let root = root();
    let certs = edge_chain(&root, at(20));
    let judge =
        |certs: &[CertificateDer<'_>]| check(certs, root.certificate(), at(20)).unwrap_err();
    assert_eq!(judge(&[]), Refusal::NoCertificate);
    assert!(matches!(judge(&certs[..1]), Refusal::Malformed { .. }));
    assert!(matches!(
        judge(&[certs[0].clone(), certs[1].clone(), certs[1].clone()]),
        Refusal::Malformed { .. }
    ));
    let swapped = [certs[1].clone(), certs[0].clone()];
    assert!(matches!(
        judge(&swapped),
        Refusal::Foreign(_) | Refusal::Malformed { .. }
    ));
    let garbage = [
        CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]),
        certs[1].clone(),
    ];
    assert!(matches!(
        judge(&garbage),
        Refusal::Malformed {
            link: Link::Leaf,
            ..
        }
    ));
}

#[test]
fn leaf_beside_an_identity_that_did_not_issue_it_borrows_no_roles() {
    let root = root();
    let own = chain(
        root.issue("edge-1", &[], days(10, 375)).unwrap(),
        days(10, 375),
        at(20),
    );
    let admin = chain(
        root.issue("edge-1", &[Role::Admin], days(10, 375)).unwrap(),
        days(10, 375),
        at(20),
    );
    let mixed = [own[0].clone(), admin[1].clone()];
    assert!(matches!(
        check(&mixed, root.certificate(), at(20)),
        Err(Refusal::Foreign(_))
    ));
}

#[test]
fn identity_cannot_make_further_identities() {
    let root = root();
    let (key, certificate, _) = root
        .issue("edge-1", &[], days(10, 375))
        .unwrap()
        .into_parts();
    let issuer = Issuer::from_ca_cert_der(&certificate, &key).unwrap();
    let below_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut below = params("x", days(10, 375)).unwrap();
    below.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    below.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    for uri in ["stoq:cluster:demo", "stoq:node:evil", "stoq:role:admin"] {
        below
            .subject_alt_names
            .push(SanType::URI(uri.try_into().unwrap()));
    }
    let below = below.signed_by(&below_key, &issuer).unwrap();
    let leaf = LeafIssuer::new(
        below_key,
        below.der().clone(),
        days(10, 375),
        Rotation::DAILY,
    )
    .current(at(20))
    .unwrap();
    let certs = &leaf.certified.cert;
    assert!(matches!(
        check(certs, root.certificate(), at(20)),
        Err(Refusal::Foreign(_))
    ));
    let with_its_issuer = [certs[0].clone(), certs[1].clone(), certificate];
    assert!(matches!(
        check(&with_its_issuer, root.certificate(), at(20)),
        Err(Refusal::Malformed { .. })
    ));
}

#[test]
fn leaf_may_not_be_valid_for_longer_than_72_h() {
    let root = root();
    let (key, certificate, _) = root
        .issue("edge-1", &[], days(10, 375))
        .unwrap()
        .into_parts();
    let rotation = Rotation {
        validity: LEAF_LIFETIME_MAX + Duration::from_secs(1),
        ..Rotation::DAILY
    };
    let long = LeafIssuer::new(key, certificate, days(10, 375), rotation);
    let certs = long.current(at(20)).unwrap().certified.cert.clone();
    assert_eq!(
        check(&certs, root.certificate(), at(20)),
        Err(Refusal::LeafLifetime { hours: 72 })
    );
}

#[test]
fn leaf_is_renewed_at_its_time_and_never_outlives_the_identity() {
    let root = root();
    let (key, certificate, _) = root
        .issue("edge-1", &[], days(10, 30))
        .unwrap()
        .into_parts();
    let leaves = LeafIssuer::new(key, certificate, days(10, 30), Rotation::DAILY);
    let first = leaves.current(at(20)).unwrap();
    assert_eq!(first.validity, days(20, 23));
    let just_before = UnixTime::since_unix_epoch(Duration::from_secs(21 * DAY - 1));
    assert_eq!(
        leaves.current(just_before).unwrap().validity,
        first.validity
    );
    assert_eq!(leaves.current(at(21)).unwrap().validity, days(21, 24));
    // A clock set back: the leaf at hand would be from the future.
    assert_eq!(leaves.current(at(15)).unwrap().validity, days(15, 18));
    let last = leaves.current(at(29)).unwrap();
    assert_eq!(last.validity, days(29, 30));
    assert_eq!(
        leaves.current(at(30)).unwrap().validity,
        last.validity,
        "a new one could not last longer"
    );
    assert_eq!(leaves.rotate(at(29)).unwrap().epoch, 1);
    assert_eq!(leaves.current(at(29)).unwrap().epoch, 1);
}

#[test]
fn files_come_back_as_they_were_saved() {
    let folder = tempfile::tempdir().unwrap();
    let (key, cert, id) = (
        folder.path().join("root.key"),
        folder.path().join("root.pem"),
        folder.path().join("id.pem"),
    );
    let now = Validity::starting(UnixTime::now(), Duration::from_secs(DAY));
    let root = ClusterRoot::generate("demo", now).unwrap();
    root.save(&key, &cert).unwrap();
    let root = ClusterRoot::load(&key, &cert).unwrap();
    root.issue("edge-1", &[Role::Edge], now)
        .unwrap()
        .save(&id)
        .unwrap();
    let other = root.issue("shield-1", &[Role::Shield], now).unwrap();
    let node = Identity::load(&id, &cert, "demo").unwrap();
    assert_eq!(
        (node.name(), node.roles(), node.cluster()),
        ("edge-1", &[Role::Edge][..], "demo")
    );
    let other = Identity::new(other, root.certificate().clone()).unwrap();
    assert_eq!(node.cluster_secret(), other.cluster_secret());
    let again = Identity::load(&id, &cert, "demo").unwrap();
    assert_eq!(node.own_secret("a"), again.own_secret("a"));
    assert_ne!(node.own_secret("a"), node.own_secret("b"));
    assert_ne!(node.own_secret("a"), other.own_secret("a"));

    let wrong = Identity::load(&id, &cert, "prod").unwrap_err().to_string();
    assert!(
        wrong.contains("root.pem") && wrong.contains("demo") && wrong.contains("prod"),
        "{wrong}"
    );
}

#[test]
fn unusable_papers_are_refused_with_their_file_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, id) = (folder.path().join("root.pem"), folder.path().join("id.pem"));
    let now = Validity::starting(UnixTime::now(), Duration::from_secs(DAY));
    let (root, foreign) = (
        ClusterRoot::generate("demo", now).unwrap(),
        ClusterRoot::generate("demo", now).unwrap(),
    );
    std::fs::write(&cert, root.to_pem_cert()).unwrap();
    let message = |file: &str| {
        pem_file::write_private(&id, file).unwrap();
        let error = Identity::load(&id, &cert, "demo").unwrap_err().to_string();
        assert!(error.contains("id.pem"), "{error}");
        error
    };
    let (one, two) = (
        root.issue("a", &[], now).unwrap().to_pem(),
        root.issue("b", &[], now).unwrap().to_pem(),
    );
    let key = one.split("-----BEGIN CERTIFICATE").next().unwrap();
    let rest = two.split_once("-----BEGIN CERTIFICATE").unwrap().1;
    assert!(
        message(&format!("{key}-----BEGIN CERTIFICATE{rest}")).contains("do not belong together")
    );
    assert!(message(key).contains("no CERTIFICATE block"));
    assert!(message("").contains("no PRIVATE KEY block"));
    assert!(
        message(&foreign.issue("a", &[], now).unwrap().to_pem())
            .contains("do not lead to this cluster's root")
    );
    let past = Validity {
        not_before: at(1),
        not_after: at(2),
    };
    assert!(message(&root.issue("a", &[], past).unwrap().to_pem()).contains("expired on"));
    let future = Validity::starting(
        UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() + 9 * DAY)),
        Duration::from_secs(DAY),
    );
    assert!(message(&root.issue("a", &[], future).unwrap().to_pem()).contains("clocks wrong"));
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .unwrap()
        .serialize_pem();
    let other_key = one.replacen(key, &p256, 1);
    assert!(message(&other_key).contains("Ed25519"));
    assert!(message(&(one.clone() + &one)).contains("more than one PRIVATE KEY"));
    assert!(
        Identity::load(&cert, &id, "demo")
            .unwrap_err()
            .to_string()
            .contains("id.pem")
    );
}
