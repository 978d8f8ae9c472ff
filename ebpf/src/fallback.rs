//! The best limiter there is at each moment: the program while it is held, else its model at the socket, and which of the
//! two, and why, can be asked.
//!
//! The model is kept as current as the program: policy, rules, sources and shed level go to both. So when the program goes
//! (its helper died or fell silent, nobody confirmed it, somebody took it off the interface) the next datagram is judged at
//! the socket by the same rules, only with fresh budgets.

use std::{
    fmt,
    net::IpAddr,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    counters::Counters,
    helper::{Held, Helper, HelperError, Why},
    limiter::{AtSocket, Judged, Limiter, LimiterError},
    policy::{Policy, RuleEdit},
    probe::Mode,
};

/// The program where there is one, else the model, which takes its memory either way ([`AtSocket`]).
///
/// An error of the helper's is told once, by the call that met it. Where the program went with it, [`Limiter::mode`] says
/// so from then on, and what was asked for holds at the socket.
#[derive(Debug)]
pub struct Fallback {
    at_socket: AtSocket,
    /// Taken for as long as the helper takes to answer; judging never needs it.
    kernel: Mutex<Kernel>,
    /// [`Mode`] as a number, for those who judge.
    mode: AtomicU8,
}

#[derive(Debug)]
struct Kernel {
    helper: Option<Helper>,
    /// What was counted by the program that is held, when it was last asked.
    counted: Counters,
    /// What was counted by those before it.
    before: Counters,
    why: String,
}

impl Fallback {
    /// Judges at the socket until something is enabled. Without a helper that is all there will be, for the reason in
    /// `why`.
    ///
    /// # Errors
    ///
    /// Where the policy is out of bounds.
    pub fn new(helper: Result<Helper, HelperError>, policy: &Policy) -> Result<Self, LimiterError> {
        let (helper, why) = match helper {
            Ok(helper) => (Some(helper), "nothing is enabled".to_owned()),
            Err(error) => (None, error.to_string()),
        };
        Ok(Self {
            at_socket: AtSocket::new(policy)?,
            kernel: Mutex::new(Kernel {
                helper,
                counted: Counters::default(),
                before: Counters::default(),
                why,
            }),
            mode: AtomicU8::new(number(Mode::UserSpace)),
        })
    }

    /// Why packets are judged at the socket and not before; none where they are judged before.
    #[must_use]
    pub fn why_at_socket(&self) -> Option<String> {
        match self.mode() {
            Mode::UserSpace => Some(self.kernel.lock().why.clone()),
            Mode::Native | Mode::Generic => None,
        }
    }

    /// Attaches the program with the policy, the rules and the sources that hold, as [`Helper::enable`].
    ///
    /// # Errors
    ///
    /// As there; packets are judged at the socket as before.
    pub fn enable(
        &self,
        interface: &str,
        wish: Mode,
        trial: Option<Duration>,
    ) -> Result<Held, HelperError> {
        let mut kernel = self.kernel.lock();
        // Under the lock, so that no change comes between what is read here and what is enabled.
        let (policy, rules) = self.at_socket.policy_and_rules();
        let known = self.at_socket.validated();
        let enabled = match &mut kernel.helper {
            None => Err(HelperError::Gone),
            Some(helper) => helper.enable(interface, wish, &policy, &rules, &known, trial),
        };
        match &enabled {
            Ok(held) => self.mode.store(number(held.mode), Ordering::Release),
            Err(error) => self.failed(&mut kernel, error),
        }
        enabled
    }

    /// Takes the program away; packets are judged at the socket from now on.
    ///
    /// # Errors
    ///
    /// Where the helper does not answer, upon which it is ended, and the program is gone with it.
    pub fn disable(&self) -> Result<(), HelperError> {
        let mut kernel = self.kernel.lock();
        let Kernel {
            helper, counted, ..
        } = &mut *kernel;
        let done = helper.as_mut().map_or(Ok(()), |helper| {
            // Asked once more, so that what it counted is not lost.
            if let Ok(now) = helper.counters() {
                *counted = now;
            }
            helper.disable()
        });
        match &done {
            Ok(()) => {
                "it was disabled".clone_into(&mut kernel.why);
                self.at_socket_from_now(&mut kernel);
            }
            Err(error) => self.failed(&mut kernel, error),
        }
        done
    }

    /// Asks the helper for what only it does: confirming, status, samples, handing over. After a hand-over the next
    /// [`beat`](Limiter::beat) notices that nothing is held.
    ///
    /// # Errors
    ///
    /// The helper's, and [`HelperError::Gone`] where it is.
    pub fn with_helper<T>(
        &self,
        ask: impl FnOnce(&mut Helper) -> Result<T, HelperError>,
    ) -> Result<T, HelperError> {
        let mut kernel = self.kernel.lock();
        let answer = match &mut kernel.helper {
            None => Err(HelperError::Gone),
            Some(helper) => ask(helper),
        };
        if let Err(error) = &answer {
            self.failed(&mut kernel, error);
        }
        answer
    }

    /// Asks the helper while something is held; what comes of an error is decided here, once.
    fn while_held<T>(
        &self,
        ask: impl FnOnce(&mut Helper) -> Result<T, HelperError>,
    ) -> Option<Result<T, HelperError>> {
        let mut kernel = self.kernel.lock();
        if self.mode() == Mode::UserSpace {
            return None;
        }
        let answer = ask(kernel.helper.as_mut()?);
        if let Err(error) = &answer {
            self.failed(&mut kernel, error);
        }
        Some(answer)
    }

    /// Goes on at the socket where an error means that nothing is held any more.
    fn failed(&self, kernel: &mut Kernel, error: &HelperError) {
        let is_over = match error {
            // One that is silent holds a program that nobody beats for, so it is ended: that takes the program away.
            HelperError::Gone | HelperError::Silent(_) | HelperError::Io(_) => {
                kernel.helper = None;
                true
            }
            HelperError::Refused(refusal) => {
                refusal.why == Why::NotEnabled && self.mode() != Mode::UserSpace
            }
            HelperError::Malformed(_) => false,
        };
        if is_over || self.mode() == Mode::UserSpace {
            kernel.why = error.to_string();
        }
        if is_over {
            self.at_socket_from_now(kernel);
        }
    }

    fn at_socket_from_now(&self, kernel: &mut Kernel) {
        self.mode.store(number(Mode::UserSpace), Ordering::Release);
        let counted = std::mem::take(&mut kernel.counted);
        kernel.before.add_all(&counted);
    }
}

fn number(mode: Mode) -> u8 {
    match mode {
        Mode::UserSpace => 0,
        Mode::Generic => 1,
        Mode::Native => 2,
    }
}

impl Limiter for Fallback {
    fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Acquire) {
            2 => Mode::Native,
            1 => Mode::Generic,
            _ => Mode::UserSpace,
        }
    }

    fn apply(&self, policy: &Policy) -> Result<(), LimiterError> {
        policy.check()?;
        let in_kernel = self.while_held(|helper| helper.apply(policy));
        if let Some(Err(error)) = in_kernel {
            // What the program that is held does not take, the model does not take either.
            if self.mode() == Mode::UserSpace {
                self.at_socket.apply(policy)?;
            }
            return Err(error.into());
        }
        self.at_socket.apply(policy)
    }

    fn edit_rules(&self, edits: &[RuleEdit]) -> Result<(), LimiterError> {
        let at_socket = self.at_socket.edit_rules(edits);
        self.while_held(|helper| helper.edit_rules(edits))
            .unwrap_or(Ok(()))?;
        at_socket
    }

    fn beat(&self, shed: u32) -> Result<(), LimiterError> {
        self.at_socket.beat(shed)?;
        Ok(self
            .while_held(|helper| helper.beat(shed))
            .unwrap_or(Ok(()))?)
    }

    fn validate(&self, sources: &[IpAddr], length: Duration) -> Result<usize, LimiterError> {
        let refused = self.at_socket.validate(sources, length)?;
        match self.while_held(|helper| helper.validate(sources, length)) {
            None => Ok(refused),
            Some(answer) => Ok(answer?),
        }
    }

    /// What the programs and the model counted, together. Of a program that went, what was known when it was last asked.
    fn counters(&self) -> Result<Counters, LimiterError> {
        let now = self.while_held(Helper::counters).transpose();
        let mut kernel = self.kernel.lock();
        if let Ok(Some(counted)) = &now {
            kernel.counted = counted.clone();
        }
        let mut all = self.at_socket.counters()?;
        all.add_all(&kernel.before);
        all.add_all(&kernel.counted);
        Ok(all)
    }

    fn judge(&self, from: IpAddr, port: u16, payload: &[u8]) -> Judged {
        match self.mode() {
            Mode::Native | Mode::Generic => Judged::Before,
            Mode::UserSpace => self.at_socket.judge(from, port, payload),
        }
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why_at_socket() {
            None => self.mode().fmt(f),
            Some(why) => write!(f, "{}: {why}", Mode::UserSpace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::Reason,
        policy::{Port, Treatment},
    };

    fn policy() -> Policy {
        Policy {
            ports: vec![Port {
                port: 443,
                udp: true,
                tcp: false,
                peers: false,
                keyed: false,
            }],
            ..Policy::default()
        }
    }

    #[test]
    fn without_a_helper_the_socket_judges_and_says_why() {
        let limiter = Fallback::new(
            Err(HelperError::Malformed(
                "it is of another version".to_owned(),
            )),
            &policy(),
        )
        .unwrap();
        let from = [192, 0, 2, 1].into();
        let deny = ("192.0.2.0/24".parse().unwrap(), Some(Treatment::Deny));
        limiter.edit_rules(&[deny]).unwrap();
        limiter.beat(0).unwrap();
        assert_eq!(
            limiter.judge(from, 443, &[0x40; 64]),
            Judged::Drops(Reason::Denied)
        );
        assert_eq!(limiter.mode(), Mode::UserSpace);
        assert!(limiter.to_string().contains("another version"), "{limiter}");
        assert_eq!(limiter.counters().unwrap().of(Reason::Denied).packets, 1);
        assert!(matches!(
            limiter.enable("eth0", Mode::Native, None),
            Err(HelperError::Gone)
        ));
    }
}
