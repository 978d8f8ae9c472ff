//! Whose statements are believed.

use super::*;
use crate::index::testing::{Pen, Trust};

fn id(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn renewal(holder: u8, owner: u8) -> Renewal {
    let terms = Terms {
        holder: id(holder),
        owner: id(owner),
        generation: 1,
        sequence: 1,
    };
    Renewal { terms, root: 7 }
}

#[test]
fn only_a_members_own_statement_to_this_owner_is_believed() {
    let trust = Trust {
        unknown: vec![id(3)],
        revoked: vec![id(4)],
    };
    let check = |signed: &Signed<Renewal>, from: u8| signed.check(&id(9), &id(from), &trust);
    let good = Signed::by(&Pen(id(1)), renewal(1, 9));
    assert_eq!(check(&good, 1), Ok(()));
    // Brought by another, who may have got it as an owner.
    assert_eq!(check(&good, 2), Err(Refusal::ForAnother));
    // 2 says what 1 holds.
    assert_eq!(
        check(&Signed::by(&Pen(id(2)), renewal(1, 9)), 2),
        Err(Refusal::ForAnother)
    );
    assert_eq!(
        check(&Signed::by(&Pen(id(2)), renewal(1, 9)), 1),
        Err(Refusal::Forged)
    );
    assert_eq!(
        check(&Signed::by(&Pen(id(1)), renewal(1, 8)), 1),
        Err(Refusal::NotForMe)
    );
    assert_eq!(
        check(&Signed::by(&Pen(id(3)), renewal(3, 9)), 3),
        Err(Refusal::Unknown)
    );
    assert_eq!(
        check(&Signed::by(&Pen(id(4)), renewal(4, 9)), 4),
        Err(Refusal::Revoked)
    );
    let mut changed = good;
    changed.statement.root = 8;
    assert_eq!(check(&changed, 1), Err(Refusal::Forged));
}

#[test]
fn a_signature_of_one_kind_is_none_of_another() {
    let renewal = renewal(1, 9);
    let signed = Signed::by(&Pen(id(1)), renewal);
    let announcement = Signed {
        statement: Announcement {
            terms: renewal.terms,
            changes: Vec::new(),
        },
        signature: signed.signature,
    };
    assert_eq!(
        announcement.check(&id(9), &id(1), &Trust::default()),
        Err(Refusal::Forged)
    );
}

#[test]
fn each_refusal_has_a_label_of_its_own() {
    let all = [
        Refusal::Malformed,
        Refusal::ForAnother,
        Refusal::NotForMe,
        Refusal::Unknown,
        Refusal::Revoked,
        Refusal::Forged,
        Refusal::Stale {
            generation: 0,
            sequence: 0,
        },
        Refusal::Full,
        Refusal::Busy,
    ];
    let places: Vec<usize> = all.iter().map(Refusal::at).collect();
    assert_eq!(places, (0..Refusal::LABELS.len()).collect::<Vec<_>>());
}
