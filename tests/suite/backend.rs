//! The backend suite.
