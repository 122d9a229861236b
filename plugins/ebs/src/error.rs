//! What EC2 and the EBS direct APIs answer, in the contract's words: one table from their codes to our kinds. What a code
//! means for one call (not found for a delete) its caller says, by the code; everything that it did not expect comes here.
//! A request without an answer, or with one that says only that the server failed, has no code: nobody knows what became
//! of it. An exception of the EBS direct APIs has the code of its reason, if that says more than its name.

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

pub(crate) const PAGE_TOKEN: &str = "INVALID_PAGE_TOKEN";
pub(crate) const BLOCK_TOKEN: &str = "INVALID_BLOCK_TOKEN";

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
        Self::said(("EC2", "ec2"), action, status, code, message)
    }

    /// What the EBS direct APIs said to one: an exception, with a reason in some of them.
    pub(crate) fn of_direct(action: &str, status: u16, exception: &str, reason: &str, message: &str) -> Self {
        let code = if kind(reason).is_some() { reason } else { exception };
        let code = match (code, status) {
            ("", 403) => "AccessDeniedException",
            ("", 404) => "ResourceNotFoundException",
            _ => code,
        };
        Self::said(("EBS", "ebs"), action, status, code, message)
    }

    fn said((who, service): (&str, &str), action: &str, status: u16, code: &str, message: &str) -> Self {
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
                format!("{who} asks for fewer requests: other users of the account may be at it too")
            }
            ErrorKind::PermissionDenied
                if code == "UnauthorizedOperation" || (service == "ebs" && advice == OWNER) =>
            {
                format!(
                    "the daemon's role may not call {service}:{action}: allow it in the role's policy ({said})"
                )
            }
            _ if advice.is_empty() => format!("{who} refuses {action}: {said}"),
            _ => format!("{who} refuses {action}: {said} {advice}"),
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

const OWNER: &str = "Have the account's owner look after it.";

/// The table. Nothing for codes that it does not know.
fn kind(code: &str) -> Option<(ErrorKind, &'static str)> {
    const LOGIN: &str = "Check the credentials and the profile of the daemon, and that its clock is right.";
    const QUOTA: &str = "Delete something, or have the quota raised (Service Quotas, Amazon EBS).";
    const KEY: &str = "Check the parameter `kms-key`, and that the daemon's role may use this key.";
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
        | "ConcurrentLimitExceededException"
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
        | "OperationNotPermitted" => (ErrorKind::PermissionDenied, OWNER),
        "DEPENDENCY_ACCESS_DENIED" => (ErrorKind::PermissionDenied, KEY),
        // The host fetches new ones before they end; whoever was late comes again.
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => (ErrorKind::Unavailable, LOGIN),
        "VolumeLimitExceeded"
        | "MaxIOPSLimitExceeded"
        | "SnapshotLimitExceeded"
        | "ResourceLimitExceeded"
        | "VolumeStorageLimitExceeded"
        | "TagLimitExceeded"
        | "ServiceQuotaExceededException"
        | "DEPENDENCY_SERVICE_QUOTA_EXCEEDED"
        | "FastSnapshotRestoreLimitExceeded" => (ErrorKind::Exhausted, QUOTA),
        "InsufficientVolumeCapacity" => (ErrorKind::Exhausted, "Try another zone or type, or later."),
        "AttachmentLimitExceeded" => (
            ErrorKind::Exhausted,
            "The machine takes no more volumes: stop something there, or use another machine or a larger type of it.",
        ),
        // These pass by themselves, when a snapshot is ready.
        "SnapshotCreationPerVolumeRateExceeded" | "ConcurrentSnapshotLimitExceeded" => (ErrorKind::Busy, ""),
        NO_VOLUME | NO_SNAPSHOT | NO_ATTACHMENT | NO_INSTANCE | "ResourceNotFoundException" => {
            (ErrorKind::NotFound, "")
        }
        VOLUME_IN_USE | "InvalidSnapshot.InUse" => (ErrorKind::InUse, ""),
        STATE | INSTANCE_STATE | DEVICE_IN_USE | "InvalidState" | "CONFLICTING_BLOCK_UPDATE" => {
            (ErrorKind::Busy, "")
        }
        MODIFYING | TOO_OFTEN => (ErrorKind::Unavailable, ""),
        MISMATCH | "ConflictException" => (ErrorKind::TokenBurnt, ""),
        "InvalidVolume.ZoneMismatch" => (
            ErrorKind::Precondition,
            "A volume is used in its own zone; a snapshot takes its bytes to another.",
        ),
        "InvalidNextToken" | "InvalidPaginationToken" => (ErrorKind::OutOfRange, ""),
        "InvalidKmsKey.InvalidState"
        | "KmsKeyNotAccessibleFault"
        | "InvalidKmsKeyId"
        | "INVALID_CUSTOMER_KEY"
        | "INVALID_GRANT_TOKEN"
        | "INVALID_DEPENDENCY_REQUEST"
        | "GRANT_NOT_FOUND"
        | "DEPENDENCY_RESOURCE_NOT_FOUND" => (ErrorKind::InvalidArgument, KEY),
        "UNRELATED_SNAPSHOTS" => (
            ErrorKind::InvalidArgument,
            "Only snapshots of one volume can be compared, or those that were made on one another.",
        ),
        // Lists tell new tokens, and a block that is whole and has its digest is only bad where it was damaged on its way.
        PAGE_TOKEN | BLOCK_TOKEN | "INVALID_BLOCK" | "WRITE_REQUEST_TIMEOUT" => (ErrorKind::Unavailable, ""),
        "INVALID_SNAPSHOT_ID" => (ErrorKind::Precondition, ""),
        VALUE
        | "INVALID_PARAMETER_VALUE"
        | "INVALID_VOLUME_SIZE"
        | "INVALID_TAG"
        | "INVALID_CONTENT_ENCODING"
        | "ValidationException"
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
        | "InternalServerException"
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
    fn an_exception_is_told_by_its_reason_if_that_says_more() {
        for (status, exception, reason, kind) in [
            (400, "ValidationException", "UNRELATED_SNAPSHOTS", ErrorKind::InvalidArgument),
            (400, "ValidationException", "INVALID_BLOCK_TOKEN", ErrorKind::Unavailable),
            (400, "ValidationException", "SOMETHING_NEW", ErrorKind::InvalidArgument),
            (400, "RequestThrottledException", "ACCOUNT_THROTTLED", ErrorKind::Throttled),
            (400, "ConcurrentLimitExceededException", "", ErrorKind::Throttled),
            (402, "ServiceQuotaExceededException", "", ErrorKind::Exhausted),
            (404, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND", ErrorKind::NotFound),
            (404, "ResourceNotFoundException", "GRANT_NOT_FOUND", ErrorKind::InvalidArgument),
            (404, "", "", ErrorKind::NotFound),
            (409, "ConflictException", "", ErrorKind::TokenBurnt),
            (500, "InternalServerException", "", ErrorKind::Unavailable),
            (503, "", "", ErrorKind::Unavailable),
        ] {
            let refusal = Refusal::of_direct("PutSnapshotBlock", status, exception, reason, "no");
            assert_eq!(refusal.error.kind, kind, "{status} {exception} {reason}");
            assert_eq!(refusal.is_unclear(), status >= 500, "{status} {exception}");
        }
        let denied =
            |reason| Refusal::of_direct("GetSnapshotBlock", 403, "AccessDeniedException", reason, "no");
        assert!(denied("UNAUTHORIZED_ACCOUNT").error.message.contains("ebs:GetSnapshotBlock"));
        assert!(denied("DEPENDENCY_ACCESS_DENIED").error.message.contains("kms-key"));
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
