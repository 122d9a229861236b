//! The hall suite.
