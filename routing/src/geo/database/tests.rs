//! What is found in a database, and that a damaged one is known before it is used.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::geo::{
    Geo,
    mmdb::{Value, Writer, city, network, networks, places},
};

fn place(geo: &Geo, address: &str) -> Place {
    geo.place(address.parse().unwrap())
}

#[test]
fn an_address_has_its_city_and_its_network() {
    let read = |bytes, kind| Some(Arc::new(Database::read(bytes, kind).unwrap()));
    let geo = Geo::new(
        read(places(77), Kind::Places),
        read(networks(78), Kind::Networks),
    );
    let frankfurt = Place {
        position: Some(Position {
            latitude: 50.11,
            longitude: 8.68,
        }),
        accuracy_km: Some(20),
        continent: Some("EU".to_owned()),
        country: Some("DE".to_owned()),
        city: Some("Frankfurt am Main".to_owned()),
        network: Some(64_496),
        network_name: Some("Example Networks".to_owned()),
    };
    assert_eq!(place(&geo, "192.0.2.7"), frankfurt);
    assert_eq!(place(&geo, "::ffff:192.0.2.7"), frankfurt);
    assert_eq!(place(&geo, "192.0.2.200").network, None);
    let london = place(&geo, "2001:db8:1:2::3");
    assert_eq!(london.city.as_deref(), Some("London"));
    assert_eq!(place(&geo, "198.51.100.1"), Place::default());
    assert_eq!(place(&geo, "2001:db8:2::"), Place::default());
    assert_eq!(place(&Geo::default(), "192.0.2.7"), Place::default());
    let said: Vec<_> = geo
        .databases()
        .map(|it| (it.kind(), it.name(), it.built()))
        .collect();
    assert_eq!(
        said,
        [
            (Kind::Places, "GeoLite2-City", 77),
            (Kind::Networks, "GeoLite2-ASN", 78)
        ]
    );
}

#[test]
fn a_position_that_is_none_is_left_out_and_the_rest_kept() {
    let bytes = Writer::new("City", 1)
        .insert("192.0.2.0/24", &city("Nowhere", "DE", 950.0, 8.68))
        .insert("198.51.100.0/24", &city("Frankfurt", "DE", 50.1, 8.68))
        .finish();
    let geo = Geo::new(
        Some(Arc::new(Database::read(bytes, Kind::Places).unwrap())),
        None,
    );
    let nowhere = place(&geo, "192.0.2.1");
    assert_eq!(nowhere.position, None);
    assert_eq!(nowhere.country.as_deref(), Some("DE"));
}

#[test]
fn a_record_of_another_form_is_counted_and_says_nothing() {
    let bytes = Writer::new("City", 1)
        .insert("192.0.2.0/24", &Value::List(vec![Value::U16(1)]))
        .insert("198.51.100.0/24", &city("Frankfurt", "DE", 50.1, 8.68))
        .finish();
    let database = Database::read(bytes, Kind::Places).unwrap();
    let before = database.unreadable();
    let mut place = Place::default();
    database.add("192.0.2.1".parse().unwrap(), &mut place);
    assert_eq!(place, Place::default());
    assert_eq!(database.unreadable(), before + 1);
}

#[test]
fn a_database_of_something_else_is_refused_by_what_it_holds() {
    for (bytes, kind, says) in [
        (networks(1), Kind::Places, "`GeoLite2-ASN` has no places"),
        (
            places(1),
            Kind::Networks,
            "`GeoLite2-City` has no network numbers",
        ),
        (
            Writer::new("Empty", 1).finish(),
            Kind::Networks,
            "`Empty` has no network numbers",
        ),
        (
            Writer::new("Odd", 1)
                .insert("192.0.2.0/24", &network(1, "x"))
                .finish(),
            Kind::Places,
            "`Odd` has no places",
        ),
    ] {
        let error = Database::read(bytes, kind).unwrap_err();
        assert!(matches!(error, BadDatabase::Other { .. }));
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_file_that_ends_early_is_damaged_wherever_it_ends() {
    let whole = places(1);
    for length in 0..whole.len() {
        let cut = whole[..length].to_vec();
        let error = Database::read(cut, Kind::Places).unwrap_err();
        assert!(
            matches!(error, BadDatabase::Damaged(_)),
            "{length}: {error}"
        );
    }
}

proptest! {
    #[test]
    fn no_damage_makes_it_panic(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
        addresses in proptest::collection::vec(any::<u128>(), 8),
    ) {
        let mut bytes = places(1);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(database) = Database::read(bytes, Kind::Places) {
            for address in addresses {
                let mut place = Place::default();
                database.add(std::net::Ipv6Addr::from(address).into(), &mut place);
                database.add(std::net::Ipv4Addr::from((address >> 96) as u32).into(), &mut place);
            }
            let mut place = Place::default();
            database.add("192.0.2.1".parse().unwrap(), &mut place);
            prop_assert!(place.position.is_none_or(|position| position.is_valid()));
        }
    }
}
