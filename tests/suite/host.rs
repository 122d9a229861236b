//! The host suite.
