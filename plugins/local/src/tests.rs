//! Every operation against a folder in memory, cut off at every call.
