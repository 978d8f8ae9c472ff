//! Longest-prefix rules of both families.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::Full;
use crate::abi::{RULES_MAX, Rule};

/// By length of the prefix, then by its bits; at most [`RULES_MAX`] of a family.
#[derive(Default)]
pub(super) struct Rules {
    v4: BTreeMap<u8, BTreeMap<Ipv4Addr, Rule>>,
    v6: BTreeMap<u8, BTreeMap<Ipv6Addr, Rule>>,
}

fn masked_v4(address: Ipv4Addr, bits: u8) -> Ipv4Addr {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(bits.min(32)))
        .unwrap_or(0);
    Ipv4Addr::from(u32::from(address) & mask)
}

fn masked_v6(address: Ipv6Addr, bits: u8) -> Ipv6Addr {
    let mask = u128::MAX
        .checked_shl(128 - u32::from(bits.min(128)))
        .unwrap_or(0);
    Ipv6Addr::from(u128::from(address) & mask)
}

fn enter<A: Ord>(
    all: &mut BTreeMap<u8, BTreeMap<A, Rule>>,
    bits: u8,
    address: A,
    rule: Rule,
) -> Result<(), Full> {
    let count: usize = all.values().map(BTreeMap::len).sum();
    let is_new = !all.get(&bits).is_some_and(|of| of.contains_key(&address));
    if is_new && count >= RULES_MAX as usize {
        return Err(Full { max: RULES_MAX });
    }
    all.entry(bits).or_default().insert(address, rule);
    Ok(())
}

impl Rules {
    pub(super) fn set(&mut self, address: IpAddr, bits: u8, rule: Rule) -> Result<(), Full> {
        match address {
            IpAddr::V4(address) => {
                let bits = bits.min(32);
                enter(&mut self.v4, bits, masked_v4(address, bits), rule)
            }
            IpAddr::V6(address) => {
                let bits = bits.min(128);
                enter(&mut self.v6, bits, masked_v6(address, bits), rule)
            }
        }
    }

    pub(super) fn remove(&mut self, address: IpAddr, bits: u8) {
        match address {
            IpAddr::V4(address) => {
                let bits = bits.min(32);
                if let Some(of) = self.v4.get_mut(&bits) {
                    of.remove(&masked_v4(address, bits));
                }
            }
            IpAddr::V6(address) => {
                let bits = bits.min(128);
                if let Some(of) = self.v6.get_mut(&bits) {
                    of.remove(&masked_v6(address, bits));
                }
            }
        }
    }

    pub(super) fn find(&self, address: IpAddr) -> Option<Rule> {
        match address {
            IpAddr::V4(address) => self
                .v4
                .iter()
                .rev()
                .find_map(|(bits, of)| of.get(&masked_v4(address, *bits)).copied()),
            IpAddr::V6(address) => self
                .v6
                .iter()
                .rev()
                .find_map(|(bits, of)| of.get(&masked_v6(address, *bits)).copied()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_what_is_removed_is_gone() {
        let mut rules = Rules::default();
        let rule = |profile| Rule { action: 0, profile };
        for (prefix, bits, profile) in [
            ("0.0.0.0", 0, 0),
            ("10.0.0.0", 8, 1),
            ("10.1.2.3", 32, 2),
            ("2001:db8::", 32, 3),
        ] {
            rules
                .set(prefix.parse().unwrap(), bits, rule(profile))
                .unwrap();
        }
        let find =
            |rules: &Rules, text: &str| rules.find(text.parse().unwrap()).map(|rule| rule.profile);
        assert_eq!(find(&rules, "192.0.2.1"), Some(0));
        assert_eq!(find(&rules, "10.1.2.4"), Some(1));
        assert_eq!(find(&rules, "10.1.2.3"), Some(2));
        assert_eq!(find(&rules, "2001:db8:ffff::"), Some(3));
        assert_eq!(find(&rules, "2001:db9::"), None);
        rules.remove("10.1.2.3".parse().unwrap(), 32);
        assert_eq!(find(&rules, "10.1.2.3"), Some(1));
    }
}
