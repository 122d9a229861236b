//! The sandbox suite.
