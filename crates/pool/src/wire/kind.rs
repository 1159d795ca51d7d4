//! Kinds of messages: the first byte of each, by the side that sends it, and sets of them.

/// Messages from clients.
pub mod client {
    /// Bind.
    pub const BIND: u8 = b'B';
    /// Close.
    pub const CLOSE: u8 = b'C';
    /// CopyData, either way.
    pub const COPY_DATA: u8 = b'd';
    /// CopyDone, either way.
    pub const COPY_DONE: u8 = b'c';
    /// CopyFail.
    pub const COPY_FAIL: u8 = b'f';
    /// Describe.
    pub const DESCRIBE: u8 = b'D';
    /// Execute.
    pub const EXECUTE: u8 = b'E';
    /// Flush.
    pub const FLUSH: u8 = b'H';
    /// FunctionCall.
    pub const FUNCTION_CALL: u8 = b'F';
    /// Parse.
    pub const PARSE: u8 = b'P';
    /// PasswordMessage, SASLInitialResponse, SASLResponse and GSSResponse: which one follows from the request.
    pub const PASSWORD: u8 = b'p';
    /// Query.
    pub const QUERY: u8 = b'Q';
    /// Sync.
    pub const SYNC: u8 = b'S';
    /// Terminate.
    pub const TERMINATE: u8 = b'X';
}

/// Messages from servers.
pub mod server {
    /// Authentication requests, and their end.
    pub const AUTHENTICATION: u8 = b'R';
    /// BackendKeyData.
    pub const BACKEND_KEY_DATA: u8 = b'K';
    /// BindComplete.
    pub const BIND_COMPLETE: u8 = b'2';
    /// CloseComplete.
    pub const CLOSE_COMPLETE: u8 = b'3';
    /// CommandComplete.
    pub const COMMAND_COMPLETE: u8 = b'C';
    /// CopyBothResponse.
    pub const COPY_BOTH: u8 = b'W';
    /// CopyData, either way.
    pub const COPY_DATA: u8 = b'd';
    /// CopyDone, either way.
    pub const COPY_DONE: u8 = b'c';
    /// CopyInResponse.
    pub const COPY_IN: u8 = b'G';
    /// CopyOutResponse.
    pub const COPY_OUT: u8 = b'H';
    /// DataRow.
    pub const DATA_ROW: u8 = b'D';
    /// EmptyQueryResponse.
    pub const EMPTY_QUERY: u8 = b'I';
    /// ErrorResponse.
    pub const ERROR: u8 = b'E';
    /// FunctionCallResponse.
    pub const FUNCTION_CALL: u8 = b'V';
    /// NegotiateProtocolVersion.
    pub const NEGOTIATE: u8 = b'v';
    /// NoData.
    pub const NO_DATA: u8 = b'n';
    /// NoticeResponse.
    pub const NOTICE: u8 = b'N';
    /// NotificationResponse.
    pub const NOTIFICATION: u8 = b'A';
    /// ParameterDescription.
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    /// ParameterStatus.
    pub const PARAMETER_STATUS: u8 = b'S';
    /// ParseComplete.
    pub const PARSE_COMPLETE: u8 = b'1';
    /// PortalSuspended.
    pub const PORTAL_SUSPENDED: u8 = b's';
    /// ReadyForQuery.
    pub const READY: u8 = b'Z';
    /// RowDescription.
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// A set of kinds. Kinds of 128 and more, which don't exist, are in every set, so that they never pass unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds(u128);

impl Kinds {
    /// Every kind.
    pub const ALL: Self = Self(u128::MAX);

    /// The set of these kinds.
    #[must_use]
    pub const fn of(kinds: &[u8]) -> Self {
        let mut set = 0;
        let mut at = 0;
        while at < kinds.len() {
            assert!(kinds[at] < 128, "no such kind");
            set |= 1 << kinds[at];
            at += 1;
        }
        Self(set)
    }

    /// Every kind that isn't in this set.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self(!self.0)
    }

    /// Whether the set has this kind.
    #[inline]
    #[must_use]
    pub const fn has(self, kind: u8) -> bool {
        kind >= 128 || self.0 >> kind & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_its_kinds_and_the_impossible_ones_alone() {
        let set = Kinds::of(&[0, b'Z', 127]);
        let held: Vec<u8> = (0..=u8::MAX).filter(|&kind| set.has(kind)).collect();
        let expected: Vec<u8> = [0, b'Z', 127].into_iter().chain(128..=u8::MAX).collect();
        assert_eq!(held, expected);
        assert!(!set.complement().has(b'Z') && set.complement().has(b'S'));
    }
}
