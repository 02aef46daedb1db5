//! One field of a JSON merge patch.

/// What a JSON merge patch (RFC 7396) says of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::http) enum Patch<T> {
    /// Nothing: it stays as it is.
    Keep,
    /// `null`: back to its default.
    Reset,
    /// A new value.
    Set(T),
}

impl<T> Patch<T> {
    /// `None` to keep, `Some(None)` to reset: the form that the domain's changes have.
    #[expect(clippy::option_option, reason = "the form of the domain's changes")]
    pub(in crate::http) fn into_option(self) -> Option<Option<T>> {
        match self {
            Self::Keep => None,
            Self::Reset => Some(None),
            Self::Set(value) => Some(Some(value)),
        }
    }

    /// `None` to keep, with `default` for a reset.
    pub(in crate::http) fn or(self, default: T) -> Option<T> {
        self.into_option().map(|value| value.unwrap_or(default))
    }

    /// The same with another value.
    pub(in crate::http) fn map<U>(self, convert: impl FnOnce(T) -> U) -> Patch<U> {
        match self {
            Self::Keep => Patch::Keep,
            Self::Reset => Patch::Reset,
            Self::Set(value) => Patch::Set(convert(value)),
        }
    }
}
