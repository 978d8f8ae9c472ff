//! Who writes what into a limiter's tables, and in which order: once for the program's maps and for the model.
//!
//! The order matters because packets are judged meanwhile (`README.md` has the rules): a block of settings is written
//! whole beside the one that holds and then made to hold; ports come last when something begins, and go first when it
//! ends; the flag that makes the limiter look at rules is set while there are rules.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::{
    abi::{self, Control, Rule, Settings},
    policy::{Policy, RuleEdit, Rules},
    validated::{Entered, SWEEP_MAX, Validated},
};

/// A slot of the settings that was left is not written again for this long: a packet may still be judged by it.
const SLOT_REST: Duration = Duration::from_millis(1);
/// Shed this many of 65,536 newcomers' Initials: all.
pub const SHED_ALL: u32 = 65_536;
/// The longest a source that completed a handshake counts without another: a day.
pub const VALIDATED_FOR_MAX: Duration = Duration::from_secs(24 * 3600);

/// Whether there was room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Taken,
    Full,
}

/// What a limiter goes by, as `abi.h` lays it out.
pub(crate) trait Tables {
    /// Why a table could not be written.
    type Error;
    /// Whether packets are judged while tables are written.
    const JUDGES_MEANWHILE: bool;

    fn set_settings(&mut self, slot: u32, settings: Settings) -> Result<(), Self::Error>;
    fn set_control(&mut self, control: Control) -> Result<(), Self::Error>;
    fn set_port(&mut self, port: u16, flags: u32) -> Result<(), Self::Error>;
    fn set_rule(&mut self, prefix: IpNet, rule: Rule) -> Result<Room, Self::Error>;
    /// A rule that is not there is no error.
    fn remove_rule(&mut self, prefix: IpNet) -> Result<(), Self::Error>;
    fn enter(&mut self, source: u64, until_ns: u64) -> Result<Room, Self::Error>;
    /// Takes out sources whose time is over at `now_ns`; `over` are all of them.
    fn leave(&mut self, over: &[u64], now_ns: u64) -> Result<(), Self::Error>;
}

/// Why a limiter's tables are not as they were asked to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError<E> {
    /// A table could not be written.
    #[error(transparent)]
    Table(#[from] E),
    /// The rules of a family are full; those before this one hold.
    #[error(
        "no room for {prefix}: there are {} rules of its family, which is all there may be",
        abi::RULES_MAX
    )]
    RulesFull { prefix: IpNet },
}

/// Tables, and what was written into them as far as it decides what is written next.
///
/// Its memory follows the rules and sources there are: at most some 16 MiB, with both families' rules full.
#[derive(Debug)]
pub(crate) struct Writer<T> {
    tables: T,
    control: Control,
    settings: Option<Settings>,
    slot_left: Option<Instant>,
    ports: BTreeMap<u16, u32>,
    rules: Rules,
    policy: Policy,
    sources: Validated,
}

impl<T: Tables> Writer<T> {
    /// For tables that are as they were made: empty.
    pub(crate) fn new(tables: T) -> Self {
        Self {
            tables,
            control: Control::default(),
            settings: None,
            slot_left: None,
            ports: BTreeMap::new(),
            rules: Rules::new(),
            policy: Policy::default(),
            sources: Validated::default(),
        }
    }

    pub(crate) fn tables(&self) -> &T {
        &self.tables
    }

    pub(crate) fn tables_mut(&mut self) -> &mut T {
        &mut self.tables
    }

    /// The policy that holds.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The rules there are.
    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The sources that are entered, with the times until which they count.
    pub(crate) fn sources(&self) -> &Validated {
        &self.sources
    }

    /// Makes `policy` hold, whole. The caller has checked it.
    pub(crate) fn apply(&mut self, policy: &Policy) -> Result<(), WriteError<T::Error>> {
        let ports = policy.port_flags();
        // What is no longer ours is let go of before anything else changes for it.
        let gone: Vec<u16> = self
            .ports
            .keys()
            .filter(|port| !ports.contains_key(*port))
            .copied()
            .collect();
        for port in gone {
            self.set_port(port, 0)?;
        }
        self.policy = policy.clone();
        self.write_settings()?;
        for (port, flags) in ports {
            if self.ports.get(&port) != Some(&flags) {
                self.set_port(port, flags)?;
            }
        }
        Ok(())
    }

    fn set_port(&mut self, port: u16, flags: u32) -> Result<(), T::Error> {
        self.tables.set_port(port, flags)?;
        if flags == 0 {
            self.ports.remove(&port);
        } else {
            self.ports.insert(port, flags);
        }
        Ok(())
    }

    /// Writes the settings that follow from policy and rules into the slot that does not hold, and makes it hold.
    fn write_settings(&mut self) -> Result<(), T::Error> {
        // IPv4 sorts before IPv6, so the first and the last prefix tell which families there are.
        let first = self.rules.first_key_value();
        let last = self.rules.last_key_value();
        let settings = self.policy.settings([
            first.is_some_and(|(prefix, _)| matches!(prefix, IpNet::V4(_))),
            last.is_some_and(|(prefix, _)| matches!(prefix, IpNet::V6(_))),
        ]);
        if self.settings == Some(settings) {
            return Ok(());
        }
        if T::JUDGES_MEANWHILE
            && let Some(left) = self.slot_left
        {
            let rest = SLOT_REST.saturating_sub(left.elapsed());
            if !rest.is_zero() {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a millisecond at most, on a thread that may block: these are system calls"
                )]
                std::thread::sleep(rest);
            }
        }
        let slot = match self.settings {
            Some(_) => 1 - self.control.slot.min(1),
            None => self.control.slot,
        };
        self.tables.set_settings(slot, settings)?;
        self.write_control(Control {
            slot,
            ..self.control
        })?;
        self.slot_left = Some(Instant::now());
        self.settings = Some(settings);
        Ok(())
    }

    fn write_control(&mut self, control: Control) -> Result<(), T::Error> {
        self.tables.set_control(control)?;
        self.control = control;
        Ok(())
    }

    /// Says that the owner lives and how much of the newcomers is shed; takes out sources whose time is over.
    pub(crate) fn beat(&mut self, now_ns: u64, shed: u32) -> Result<(), T::Error> {
        self.write_control(Control {
            heartbeat_ns: now_ns,
            slot: self.control.slot,
            shed: shed.min(SHED_ALL),
        })?;
        self.sweep(now_ns)
    }

    fn sweep(&mut self, now_ns: u64) -> Result<(), T::Error> {
        let mut over = Vec::new();
        while over.len() < SWEEP_MAX
            && let Some(source) = self.sources.take_over(now_ns)
        {
            over.push(source);
        }
        if over.is_empty() {
            return Ok(());
        }
        self.tables.leave(&over, now_ns)
    }

    /// Changes rules. Where one does not fit, those before it hold.
    pub(crate) fn edit_rules(&mut self, edits: &[RuleEdit]) -> Result<(), WriteError<T::Error>> {
        let outcome = edits.iter().try_for_each(|edit| self.edit_rule(*edit));
        // The flags follow what is there, also where not all of it could be.
        if self.settings.is_some() {
            self.write_settings()?;
        }
        outcome
    }

    fn edit_rule(&mut self, (prefix, treatment): RuleEdit) -> Result<(), WriteError<T::Error>> {
        let prefix = prefix.trunc();
        let Some(treatment) = treatment else {
            self.tables.remove_rule(prefix)?;
            self.rules.remove(&prefix);
            return Ok(());
        };
        match self.tables.set_rule(prefix, treatment.rule())? {
            Room::Full => Err(WriteError::RulesFull { prefix }),
            Room::Taken => {
                self.rules.insert(prefix, treatment);
                Ok(())
            }
        }
    }

    /// Enters sources that completed a handshake, for [`VALIDATED_FOR_MAX`] at most. Says how many found no room.
    pub(crate) fn validate(
        &mut self,
        sources: &[IpAddr],
        now_ns: u64,
        length: Duration,
    ) -> Result<usize, T::Error> {
        let length = length.min(VALIDATED_FOR_MAX).as_nanos();
        let until_ns = now_ns.saturating_add(u64::try_from(length).unwrap_or(0));
        let mut refused = 0;
        for address in sources {
            let source = abi::source(*address);
            refused += usize::from(self.enter(source, until_ns, now_ns)? == Room::Full);
        }
        Ok(refused)
    }

    /// Enters sources with the times until which they count, as another process's tables had them. What is over is left out,
    /// and nothing counts for longer than it could here. Says how many were entered.
    pub(crate) fn carry_over(
        &mut self,
        known: &[(u64, u64)],
        now_ns: u64,
    ) -> Result<usize, T::Error> {
        let longest = u64::try_from(VALIDATED_FOR_MAX.as_nanos()).unwrap_or(u64::MAX);
        let mut entered = 0;
        for (source, until_ns) in known {
            let until_ns = (*until_ns).min(now_ns.saturating_add(longest));
            if until_ns > now_ns {
                entered += usize::from(self.enter(*source, until_ns, now_ns)? == Room::Taken);
            }
        }
        Ok(entered)
    }

    fn enter(&mut self, source: u64, until_ns: u64, now_ns: u64) -> Result<Room, T::Error> {
        let mut entered = self.sources.enter(source, until_ns);
        if entered == Entered::Full {
            self.sweep(now_ns)?;
            entered = self.sources.enter(source, until_ns);
        }
        match entered {
            Entered::Unchanged => Ok(Room::Taken),
            Entered::Full => Ok(Room::Full),
            Entered::Written => match self.tables.enter(source, until_ns) {
                Ok(Room::Taken) => Ok(Room::Taken),
                Ok(Room::Full) => {
                    self.sources.forget(source);
                    Ok(Room::Full)
                }
                Err(error) => {
                    self.sources.forget(source);
                    Err(error)
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::policy::{Port, Treatment};

    /// Tables that write down what is done to them.
    #[derive(Debug, Default)]
    struct Record {
        done: Vec<String>,
        rules_max: usize,
        rules: Vec<IpNet>,
    }

    impl Tables for Record {
        type Error = Infallible;
        const JUDGES_MEANWHILE: bool = true;

        fn set_settings(&mut self, slot: u32, settings: Settings) -> Result<(), Infallible> {
            self.done
                .push(format!("settings {slot} flags {}", settings.flags));
            Ok(())
        }
        fn set_control(&mut self, control: Control) -> Result<(), Infallible> {
            self.done.push(format!(
                "control {} beat {} shed {}",
                control.slot, control.heartbeat_ns, control.shed
            ));
            Ok(())
        }
        fn set_port(&mut self, port: u16, flags: u32) -> Result<(), Infallible> {
            self.done.push(format!("port {port} {flags}"));
            Ok(())
        }
        fn set_rule(&mut self, prefix: IpNet, _: Rule) -> Result<Room, Infallible> {
            if self.rules.len() >= self.rules_max {
                return Ok(Room::Full);
            }
            self.rules.push(prefix);
            self.done.push(format!("rule {prefix}"));
            Ok(Room::Taken)
        }
        fn remove_rule(&mut self, prefix: IpNet) -> Result<(), Infallible> {
            self.rules.retain(|rule| *rule != prefix);
            self.done.push(format!("no rule {prefix}"));
            Ok(())
        }
        fn enter(&mut self, source: u64, until_ns: u64) -> Result<Room, Infallible> {
            self.done.push(format!("enter {source:x} {until_ns}"));
            Ok(Room::Taken)
        }
        fn leave(&mut self, over: &[u64], _: u64) -> Result<(), Infallible> {
            self.done.push(format!("leave {over:x?}"));
            Ok(())
        }
    }

    fn writer(rules_max: usize) -> Writer<Record> {
        Writer::new(Record {
            rules_max,
            ..Record::default()
        })
    }

    fn port(port: u16) -> Port {
        Port {
            port,
            udp: true,
            tcp: false,
            peers: false,
            keyed: false,
        }
    }

    fn done(writer: &mut Writer<Record>) -> Vec<String> {
        std::mem::take(&mut writer.tables_mut().done)
    }

    fn deny(prefix: &str) -> RuleEdit {
        (prefix.parse().unwrap(), Some(Treatment::Deny))
    }

    #[test]
    fn ports_come_last_when_they_begin_and_go_first_when_they_end() {
        let mut writer = writer(10);
        let mut policy = Policy {
            ports: vec![port(443)],
            ..Policy::default()
        };
        writer.apply(&policy).unwrap();
        assert_eq!(
            done(&mut writer),
            [
                "settings 0 flags 0",
                "control 0 beat 0 shed 0",
                "port 443 1"
            ]
        );
        policy.ports = vec![port(4433)];
        policy.dry_run = true;
        writer.apply(&policy).unwrap();
        assert_eq!(
            done(&mut writer),
            [
                "port 443 0",
                "settings 1 flags 1",
                "control 1 beat 0 shed 0",
                "port 4433 1"
            ]
        );
    }

    #[test]
    fn slots_take_turns_and_a_heartbeat_keeps_the_one_that_holds() {
        let mut writer = writer(10);
        for dry_run in [false, true, false] {
            writer
                .apply(&Policy {
                    dry_run,
                    ..Policy::default()
                })
                .unwrap();
        }
        writer.beat(7, 99_999).unwrap();
        assert_eq!(
            done(&mut writer),
            [
                "settings 0 flags 0",
                "control 0 beat 0 shed 0",
                "settings 1 flags 1",
                "control 1 beat 0 shed 0",
                "settings 0 flags 0",
                "control 0 beat 0 shed 0",
                "control 0 beat 7 shed 65536",
            ]
        );
    }

    #[test]
    fn a_policy_that_changes_nothing_writes_nothing() {
        let mut writer = writer(10);
        writer.apply(&Policy::default()).unwrap();
        done(&mut writer);
        writer.apply(&Policy::default()).unwrap();
        assert_eq!(done(&mut writer), [""; 0]);
    }

    #[test]
    fn rules_are_looked_at_while_there_are_some_of_their_family() {
        let mut writer = writer(10);
        writer.apply(&Policy::default()).unwrap();
        done(&mut writer);
        writer
            .edit_rules(&[deny("192.0.2.9/24"), deny("2001:db8::/32")])
            .unwrap();
        assert_eq!(
            done(&mut writer),
            [
                "rule 192.0.2.0/24",
                "rule 2001:db8::/32",
                &format!(
                    "settings 1 flags {}",
                    abi::FLAG_RULES_V4 | abi::FLAG_RULES_V6
                ),
                "control 1 beat 0 shed 0",
            ]
        );
        writer
            .edit_rules(&[("192.0.2.0/24".parse().unwrap(), None)])
            .unwrap();
        assert_eq!(
            done(&mut writer),
            [
                "no rule 192.0.2.0/24",
                &format!("settings 0 flags {}", abi::FLAG_RULES_V6),
                "control 0 beat 0 shed 0",
            ]
        );
    }

    #[test]
    fn where_a_rule_does_not_fit_those_before_it_hold() {
        let mut writer = writer(1);
        writer.apply(&Policy::default()).unwrap();
        let error = writer
            .edit_rules(&[deny("192.0.2.0/24"), deny("198.51.100.0/24")])
            .unwrap_err();
        assert!(error.to_string().contains("198.51.100.0/24"), "{error}");
        assert_eq!(writer.settings.unwrap().flags, abi::FLAG_RULES_V4);
    }

    #[test]
    fn of_another_processs_sources_those_count_on_whose_time_is_not_over() {
        let day = u64::try_from(VALIDATED_FOR_MAX.as_nanos()).unwrap();
        let mut writer = writer(1);
        let known = [(1, 99), (2, 100), (3, 101), (4, u64::MAX)];
        assert_eq!(writer.carry_over(&known, 100).unwrap(), 2);
        assert_eq!(
            done(&mut writer),
            ["enter 3 101".to_owned(), format!("enter 4 {}", 100 + day)]
        );
    }

    #[test]
    fn sources_are_taken_out_when_their_time_is_over() {
        let mut writer = writer(1);
        let sources: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        writer
            .validate(&sources, 100, Duration::from_nanos(50))
            .unwrap();
        writer
            .validate(&sources[1..], 120, Duration::from_nanos(50))
            .unwrap();
        writer.beat(150, 0).unwrap();
        writer.beat(151, 0).unwrap();
        writer.beat(170, 0).unwrap();
        assert_eq!(
            done(&mut writer),
            [
                "enter ffffc0000201 150",
                "enter ffffc0000202 150",
                "enter ffffc0000202 170",
                "control 0 beat 150 shed 0",
                "leave [ffffc0000201]",
                "control 0 beat 151 shed 0",
                "control 0 beat 170 shed 0",
                "leave [ffffc0000202]",
            ]
        );
    }
}
