//! The stored form of the records: see below.
