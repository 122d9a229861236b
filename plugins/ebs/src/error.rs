//! What EC2 answers, in the contract's words: one table from its codes to our kinds. What a code means for one call (not
//! found for a delete) its caller says, by the code; everything that it did not expect comes here. A request without an
//! answer, or with one that says only that the server failed, has no code: nobody knows what became of it.

use kato_plugin_sdk::types::{Error, ErrorKind};

pub(crate) const MISMATCH: &str = "IdempotentParameterMismatch";
pub(crate) const NO_VOLUME: &str = "InvalidVolume.NotFound";
pub(crate) const NO_SNAPSHOT: &str = "InvalidSnapshot.NotFound";
pub(crate) const NO_INSTANCE: &str = "InvalidInstanceID.NotFound";
pub(crate) const NO_ATTACHMENT: &str = "InvalidAttachment.NotFound";
pub(crate) const VOLUME_IN_USE: &str = "VolumeInUse";
pub(crate) const STATE: &str = "IncorrectState";
pub(crate) const INSTANCE_STATE: &str = "IncorrectInstanceState";
pub(crate) const VALUE: &str = "InvalidParameterValue";
pub(crate) const DEVICE_IN_USE: &str = "InvalidDevice.InUse";
pub(crate) const TOO_OFTEN: &str = "VolumeModificationRateExceeded";
pub(crate) const MODIFYING: &str = "IncorrectModificationState";

/// How long a snapshot waits for others of its volume.
const SNAPSHOTS_MS: u64 = 15_000;

/// A request that was refused, or of which nobody knows what became.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// EC2's code; empty where nobody knows.
    pub(crate) code: String,
    pub(crate) error: Error,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

impl Refusal {
    /// One without an answer that says anything.
    pub(crate) fn unclear(error: Error) -> Self {
        Self { code: String::new(), error }
    }

    /// What EC2 said to a request for this action.
    pub(crate) fn of(action: &str, status: u16, code: &str, message: &str) -> Self {
        let (kind, advice) = kind(code).unwrap_or(match status {
            429 => (ErrorKind::Throttled, ""),
            400..=499 => (ErrorKind::Internal, ""),
            _ => (ErrorKind::Unavailable, ""),
        });
        // The rest of it is for `aws sts decode-authorization-message` and fills a screen.
        let said = message.split("Encoded authorization failure message").next().unwrap_or(message).trim();
        let said: String = said.chars().take(500).collect();
        let text = match kind {
            ErrorKind::Throttled => {
                "EC2 asks for fewer requests: other users of the account may be at it too".to_owned()
            }
            ErrorKind::PermissionDenied if code == "UnauthorizedOperation" => {
                format!("the daemon's role may not call ec2:{action}: allow it in the role's policy ({said})")
            }
            _ if advice.is_empty() => format!("EC2 refuses {action}: {said}"),
            _ => format!("EC2 refuses {action}: {said} {advice}"),
        };
        let mut error = Error::new(kind, text).detail(format!("HTTP {status} {code}"));
        if code == "SnapshotCreationPerVolumeRateExceeded" || code == "ConcurrentSnapshotLimitExceeded" {
            error = error.retry_after_ms(SNAPSHOTS_MS);
        }
        let unclear = matches!(kind, ErrorKind::Unavailable) && status >= 500;
        Self { code: if unclear { String::new() } else { code.to_owned() }, error }
    }

    pub(crate) fn is(&self, codes: &[&str]) -> bool {
        codes.contains(&self.code.as_str())
    }

    /// Whether it may have been carried out.
    pub(crate) fn is_unclear(&self) -> bool {
        self.code.is_empty()
    }

    /// Whether a quota is used up. EC2 asks for quotas before it looks whether it has heard a request before, so this
    /// may be said of something that is there.
    pub(crate) fn is_quota(&self) -> bool {
        self.error.kind == ErrorKind::Exhausted
    }
}

/// The table. Nothing for codes that it does not know.
fn kind(code: &str) -> Option<(ErrorKind, &'static str)> {
    const LOGIN: &str = "Check the credentials and the profile of the daemon, and that its clock is right.";
    const QUOTA: &str = "Delete something, or have the quota raised (Service Quotas, Amazon EBS).";
    Some(match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "SlowDown"
        | "BandwidthLimitExceeded"
        | "EC2ThrottledException"
        | "PriorRequestNotComplete" => (ErrorKind::Throttled, ""),
        "UnauthorizedOperation" => (ErrorKind::PermissionDenied, ""),
        "AuthFailure"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationToken"
        | "IncompleteSignature"
        | "InvalidSignature" => (ErrorKind::PermissionDenied, LOGIN),
        "OptInRequired"
        | "Blocked"
        | "PendingVerification"
        | "AccessDenied"
        | "AccessDeniedException"
        | "OperationNotPermitted" => (ErrorKind::PermissionDenied, "Have the account's owner look after it."),
        // The host fetches new ones before they end; whoever was late comes again.
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => (ErrorKind::Unavailable, LOGIN),
        "VolumeLimitExceeded"
        | "MaxIOPSLimitExceeded"
        | "SnapshotLimitExceeded"
        | "ResourceLimitExceeded"
        | "VolumeStorageLimitExceeded"
        | "TagLimitExceeded"
        | "FastSnapshotRestoreLimitExceeded" => (ErrorKind::Exhausted, QUOTA),
        "InsufficientVolumeCapacity" => (ErrorKind::Exhausted, "Try another zone or type, or later."),
        "AttachmentLimitExceeded" => (
            ErrorKind::Exhausted,
            "The machine takes no more volumes: stop something there, or use another machine or a larger type of it.",
        ),
        // These pass by themselves, when a snapshot is ready.
        "SnapshotCreationPerVolumeRateExceeded" | "ConcurrentSnapshotLimitExceeded" => (ErrorKind::Busy, ""),
        NO_VOLUME | NO_SNAPSHOT | NO_ATTACHMENT | NO_INSTANCE => (ErrorKind::NotFound, ""),
        VOLUME_IN_USE | "InvalidSnapshot.InUse" => (ErrorKind::InUse, ""),
        STATE | INSTANCE_STATE | DEVICE_IN_USE | "InvalidState" => (ErrorKind::Busy, ""),
        MODIFYING | TOO_OFTEN => (ErrorKind::Unavailable, ""),
        MISMATCH => (ErrorKind::TokenBurnt, ""),
        "InvalidVolume.ZoneMismatch" => (
            ErrorKind::Precondition,
            "A volume is used in its own zone; a snapshot takes its bytes to another.",
        ),
        "InvalidNextToken" | "InvalidPaginationToken" => (ErrorKind::OutOfRange, ""),
        "InvalidKmsKey.InvalidState" | "KmsKeyNotAccessibleFault" | "InvalidKmsKeyId" => (
            ErrorKind::InvalidArgument,
            "Check the parameter `kms-key`, and that the daemon's role may use this key.",
        ),
        VALUE
        | "InvalidParameter"
        | "InvalidParameterCombination"
        | "InvalidParameterDependency"
        | "MissingParameter"
        | "UnknownVolumeType"
        | "UnknownVolumeType.Unsupported"
        | "InvalidZone.NotFound"
        | "InvalidVolumeID.Malformed"
        | "InvalidVolumeID.ZoneMismatch"
        | "InvalidInstanceID.Malformed"
        | "InvalidInstanceId.Malformed"
        | "InvalidSnapshotID.Malformed"
        | "InvalidTagKey.Malformed"
        | "InvalidAvailabilityZone"
        | "InvalidAvailabilityZones" => (ErrorKind::InvalidArgument, ""),
        "Unsupported" | "UnsupportedOperation" | "UnsupportedOperationException" => {
            (ErrorKind::Precondition, "")
        }
        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "ServerInternal"
        | "ServiceUnavailable"
        | "Unavailable"
        | "RequestTimeout" => (ErrorKind::Unavailable, ""),
        _ => return None,
    })
}

pub(crate) fn no_volume(token: &str) -> Error {
    Error::not_found(format!("there is no volume with the token {token}"))
}

pub(crate) fn no_snapshot(token: &str) -> Error {
    Error::not_found(format!("there is no snapshot with the token {token}"))
}

/// A handle and a token that do not belong together.
pub(crate) fn not_the_tokens(what: &str, handle: &str, token: &str) -> Error {
    Error::precondition(format!(
        "the {what} {handle:?} is not the one with the token {token}: its tag kato-token says otherwise"
    ))
}

/// The token is taken by something with another wish.
pub(crate) fn other_wish(token: &str, id: &str, why: &str) -> Error {
    Error::already_exists(format!(
        "the volume {id} has the token {token} and is not what is asked for: {why}"
    ))
}

/// A question of the wrong size.
pub(crate) fn too_many(what: &str, asked: usize) -> Error {
    Error::invalid(format!("{asked} {what} are asked for at once: 100 are allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_kind() {
        for (code, kind) in [
            ("RequestLimitExceeded", ErrorKind::Throttled),
            ("UnauthorizedOperation", ErrorKind::PermissionDenied),
            ("AuthFailure", ErrorKind::PermissionDenied),
            ("VolumeLimitExceeded", ErrorKind::Exhausted),
            ("AttachmentLimitExceeded", ErrorKind::Exhausted),
            ("InvalidVolume.NotFound", ErrorKind::NotFound),
            ("VolumeInUse", ErrorKind::InUse),
            ("IncorrectState", ErrorKind::Busy),
            ("IncorrectModificationState", ErrorKind::Unavailable),
            ("InvalidParameterValue", ErrorKind::InvalidArgument),
            ("InvalidVolume.ZoneMismatch", ErrorKind::Precondition),
            ("SomethingNew", ErrorKind::Internal),
        ] {
            let refusal = Refusal::of("CreateVolume", 400, code, "no");
            assert_eq!((refusal.error.kind, refusal.is_unclear()), (kind, false), "{code}");
        }
    }

    #[test]
    fn a_server_that_fails_says_nothing_and_one_that_throttles_does() {
        for (status, code, kind, unclear) in [
            (500, "InternalError", ErrorKind::Unavailable, true),
            (503, "Unavailable", ErrorKind::Unavailable, true),
            (502, "", ErrorKind::Unavailable, true),
            (503, "RequestLimitExceeded", ErrorKind::Throttled, false),
            (400, "RequestExpired", ErrorKind::Unavailable, false),
        ] {
            let refusal = Refusal::of("AttachVolume", status, code, "no");
            assert_eq!((refusal.error.kind, refusal.is_unclear()), (kind, unclear), "{status} {code}");
        }
    }

    #[test]
    fn who_is_not_allowed_reads_what_to_allow() {
        let said =
            "You are not authorized to perform this operation. Encoded authorization failure message: 4Xb9zq";
        let error = Refusal::of("ModifyVolume", 403, "UnauthorizedOperation", said).error;
        assert!(error.message.contains("ec2:ModifyVolume"), "{}", error.message);
        assert!(!error.message.contains("4Xb9zq"), "{}", error.message);
    }
}
