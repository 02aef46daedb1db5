//! Shares of a scarce resource, by dynamic thresholds (Choudhury and Hahne, IEEE/ACM Transactions on
//! Networking 6(2), 1998): who may take more depends on what is still free.
//!
//! A lone user gets nearly everything; however many come, each gets less than the one before, and something
//! is left for the next. A fixed share would either starve the lone one or let a few take everything.

/// An organisation may hold this multiple of what is free: four fifths of everything if it is alone.
const ORG_SHARE: usize = 4;

/// How much more an organisation may take of a resource of which `free` is left: until it holds four times what
/// is then free, and at least one if it holds nothing.
pub(super) const fn org_left(held: usize, free: usize) -> usize {
    let left = (ORG_SHARE * free).saturating_sub(held).div_ceil(ORG_SHARE + 1);
    if held == 0 && free > 0 && left == 0 { 1 } else { left }
}

/// How much one endpoint may hold of a resource of which `free` is left to its organisation.
pub(super) const fn endpoint_share(free: usize) -> usize {
    let half = free / 2;
    if half == 0 { 1 } else { half }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_organisation_takes_four_fifths() {
        let (mut held, total) = (0, 100);
        while org_left(held, total - held) > 0 {
            held += 1;
        }
        assert_eq!(held, 80);
    }

    #[test]
    fn every_organisation_gets_one_while_any_is_free() {
        assert_eq!(org_left(0, 1), 1);
        assert_eq!(org_left(0, 0), 0);
        assert_eq!(org_left(1, 0), 0);
    }
}
