//! The signing secrets of an endpoint: the current one, and earlier ones that still sign during an overlap.

use std::time::Duration;

use super::{SignatureScheme, SigningSecret, Timestamp, Violation};

/// The secrets that sign an endpoint's webhooks. During an overlap each webhook carries one signature per
/// secret, so that receivers can switch at any time in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    current: SigningSecret,
    /// Newest first.
    earlier: Vec<EarlierSecret>,
}

/// A replaced secret that still signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierSecret {
    /// The secret.
    pub secret: SigningSecret,
    /// It signs attempts that start before this time.
    pub until: Timestamp,
}

/// The maximum of earlier secrets still signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("three earlier secrets still sign")]
pub struct TooManySecrets;

/// An owner's choice of a new secret: the secret itself, the scheme of a generated one, or neither.
#[derive(Clone, Debug, Default)]
pub struct SecretChoice {
    /// Its signature scheme.
    pub scheme: Option<SignatureScheme>,
    /// The secret; generated if not provided.
    pub provided: Option<SigningSecret>,
}

/// The text is not a list of earlier secrets.
#[derive(Debug, thiserror::Error)]
#[error("is not a list of earlier secrets")]
pub struct EarlierSecretsError;

impl SecretChoice {
    /// Checks that a provided secret is of the chosen scheme.
    pub fn check(&self) -> Result<(), Violation> {
        let named = self.scheme.zip(self.provided.as_ref());
        if named.is_none_or(|(scheme, provided)| scheme == provided.scheme()) {
            return Ok(());
        }
        let rule = "must be whsec_… with the signature hmac-sha256, and whsk_… with ed25519";
        Err(Violation::new("secret", "scheme", rule))
    }

    /// The provided secret, or else a generated one, by default of the scheme `default`.
    ///
    /// # Errors
    /// When the system has no random source.
    pub fn secret(self, default: SignatureScheme) -> Result<SigningSecret, getrandom::Error> {
        match self.provided {
            Some(secret) => Ok(secret),
            None => SigningSecret::generate_for(self.scheme.unwrap_or(default)),
        }
    }
}

impl Secrets {
    /// Maximum earlier secrets: each adds a signature to every webhook.
    pub const EARLIER_MAX: usize = 3;
    /// The default overlap of a rotation: 24 hours.
    pub const OVERLAP_DEFAULT: Duration = Duration::from_hours(24);
    /// Maximum overlap in seconds: seven days.
    pub const OVERLAP_SECONDS_MAX: u32 = 7 * 24 * 60 * 60;

    /// Checks an overlap: at most seven days.
    pub fn check_overlap(overlap: Duration) -> Result<(), Violation> {
        if overlap <= Duration::from_secs(u64::from(Self::OVERLAP_SECONDS_MAX)) {
            return Ok(());
        }
        Err(Violation::new("overlap", "range", "must be at most 7d"))
    }

    /// A current secret without earlier ones.
    pub const fn new(current: SigningSecret) -> Self {
        Self { current, earlier: Vec::new() }
    }

    /// A current secret with the earlier ones that [`Self::reveal_earlier`] returned.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn with_earlier(current: SigningSecret, text: &str) -> Result<Self, EarlierSecretsError> {
        let parse = |entry: &str| {
            let (until, secret) = entry.split_once(' ')?;
            let until = Timestamp::from_micros(until.parse().ok()?);
            Some(EarlierSecret { secret: secret.parse().ok()?, until })
        };
        let earlier = text.split('\n').map(parse).collect::<Option<_>>();
        Ok(Self { current, earlier: earlier.ok_or(EarlierSecretsError)? })
    }

    /// The current secret.
    pub const fn current(&self) -> &SigningSecret {
        &self.current
    }

    /// The earlier secrets that still sign at `now`, newest first.
    pub fn earlier_at(&self, now: Timestamp) -> impl Iterator<Item = &EarlierSecret> {
        self.earlier.iter().filter(move |earlier| now < earlier.until)
    }

    /// The secrets that sign an attempt that starts at `now`, the current one first.
    pub fn signing_at(&self, now: Timestamp) -> impl Iterator<Item = &SigningSecret> {
        std::iter::once(&self.current).chain(self.earlier_at(now).map(|earlier| &earlier.secret))
    }

    /// Makes `new` the current secret; the previous one still signs for `overlap`. Secrets replaced before keep
    /// their ends, but none outlasts `overlap` from `now`, so an overlap of zero ends them all.
    ///
    /// # Errors
    /// When more than [`Self::EARLIER_MAX`] earlier secrets would sign. None is dropped before its end, since a
    /// receiver may rely on it.
    pub fn rotated(
        &self,
        new: SigningSecret,
        overlap: Duration,
        now: Timestamp,
    ) -> Result<Self, TooManySecrets> {
        let until = now.plus(overlap);
        let replaced = EarlierSecret { secret: self.current.clone(), until };
        let earlier: Vec<EarlierSecret> = std::iter::once(replaced)
            .chain(self.earlier.iter().cloned())
            .map(|earlier| EarlierSecret { until: earlier.until.min(until), ..earlier })
            .filter(|earlier| now < earlier.until && earlier.secret != new)
            .collect();
        if earlier.len() > Self::EARLIER_MAX {
            return Err(TooManySecrets);
        }
        Ok(Self { current: new, earlier })
    }

    /// The earlier secrets as one text, for the store; `None` if there are none.
    pub fn reveal_earlier(&self) -> Option<String> {
        let entry = |earlier: &EarlierSecret| {
            format!("{} {}", earlier.until.micros(), earlier.secret.reveal())
        };
        let entries: Vec<String> = self.earlier.iter().map(entry).collect();
        (!entries.is_empty()).then(|| entries.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn at(hours: u64) -> Timestamp {
        Timestamp::from_micros(0).plus(HOUR * u32::try_from(hours).unwrap())
    }

    fn secret() -> SigningSecret {
        SigningSecret::generate().unwrap()
    }

    fn signing(secrets: &Secrets, now: Timestamp) -> Vec<SigningSecret> {
        secrets.signing_at(now).cloned().collect()
    }

    #[test]
    fn both_secrets_sign_during_the_overlap_and_only_the_new_one_after_it() {
        let (old, new) = (secret(), secret());
        let secrets = Secrets::new(old.clone()).rotated(new.clone(), HOUR, at(1)).unwrap();
        assert_eq!(signing(&secrets, at(1)), [new.clone(), old.clone()]);
        assert_eq!(signing(&secrets, at(2).minus(Duration::from_micros(1))), [new.clone(), old]);
        assert_eq!(signing(&secrets, at(2)), [new]);
    }

    #[test]
    fn rotation_during_an_overlap_keeps_ends_and_never_extends_them() {
        let (a, b, c, d) = (secret(), secret(), secret(), secret());
        let secrets = Secrets::new(a.clone()).rotated(b.clone(), 2 * HOUR, at(0)).unwrap();
        let secrets = secrets.rotated(c.clone(), 24 * HOUR, at(1)).unwrap();
        assert_eq!(signing(&secrets, at(1)), [c.clone(), b.clone(), a]);
        assert_eq!(signing(&secrets, at(2)), [c.clone(), b.clone()]);
        let shortened = secrets.rotated(d.clone(), HOUR, at(2)).unwrap();
        assert_eq!(signing(&shortened, at(2)), [d.clone(), c, b]);
        assert_eq!(signing(&shortened, at(3)), std::slice::from_ref(&d));
        let alone = secrets.rotated(d.clone(), Duration::ZERO, at(1)).unwrap();
        assert_eq!(signing(&alone, at(1)), [d]);
    }

    #[test]
    fn earlier_secrets_are_bounded_and_none_is_dropped_before_its_end() {
        let mut secrets = Secrets::new(secret());
        for hour in 0..3 {
            secrets = secrets.rotated(secret(), 10 * HOUR, at(hour)).unwrap();
        }
        assert_eq!(secrets.rotated(secret(), HOUR, at(3)), Err(TooManySecrets));
        assert!(secrets.rotated(secret(), Duration::ZERO, at(3)).is_ok());
        assert!(secrets.rotated(secret(), HOUR, at(10)).is_ok(), "one has ended");
    }

    #[test]
    fn secret_that_is_reused_signs_once() {
        let (a, b) = (secret(), secret());
        let secrets = Secrets::new(a.clone()).rotated(b.clone(), HOUR, at(0)).unwrap();
        let back = secrets.rotated(a.clone(), HOUR, at(0)).unwrap();
        assert_eq!(signing(&back, at(0)), [a.clone(), b]);
        let same = Secrets::new(a.clone()).rotated(a.clone(), HOUR, at(0)).unwrap();
        assert_eq!(signing(&same, at(0)), [a]);
    }

    #[test]
    fn earlier_secrets_survive_a_round_trip_as_text() {
        let alone = Secrets::new(secret());
        assert_eq!(alone.reveal_earlier(), None);
        let secrets = alone.rotated(secret(), HOUR, at(0)).unwrap();
        let secrets = secrets.rotated(secret(), HOUR, at(0)).unwrap();
        let text = secrets.reveal_earlier().unwrap();
        assert_eq!(Secrets::with_earlier(secrets.current().clone(), &text).unwrap(), secrets);
        assert!(Secrets::with_earlier(secret(), "tomorrow whsec_").is_err());
    }
}
