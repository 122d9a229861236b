//! The docker suite.
