//! Digests at the processor's own speed, five times what a guest can do.

use sha2::{Digest as _, Sha256};

use crate::{guest::Guest, v1::abi::kato::storage::digests::Host};

impl Host for Guest {
    async fn sha256(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        Sha256::digest(&bytes).to_vec()
    }
}
