//! The claim of a node to an address, from the decision about its certificate until the certificate is signed.
//!
//! Two masters may decide about two nodes with one address at the same time, and each record is written for itself. So a master
//!
//! 1. writes the claim into the record of its node, and reads all records after that,
//! 2. takes the address from all other claims that give way to it,
//! 3. writes the record of its node again, over the version that it has read in step 1, and then signs.
//!
//! Of two masters, the one that reads later sees the claim of the other one. If it takes that claim away first, the other one fails in step 3.
//! If the other one was in step 3 before, it fails in step 2. So never both sign, also if their clocks differ: times decide only who goes on.
//! Step 3 changes the record in any case, also if the same request is looked at again: the API server gives a record without a change no new
//! version.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::Admissions;
use super::record::{
    AddressClaim, Admission, CLAIM_LIFE, CLOCKS_DIFFER, LONGEST_LIFE, written_time,
};

impl AddressClaim {
    fn is_for(&self, address: IpAddr) -> bool {
        is_same(self.address, address)
    }

    /// A time that is far ahead is as wrong as an old one: otherwise a clock that is ahead would make the claim last.
    fn is_young(&self, now: SystemTime) -> bool {
        let age = now.duration_since(self.at);
        age.unwrap_or_else(|ahead| ahead.duration()) < CLAIM_LIFE
    }

    /// Whether another node has to wait for its end, if it was first. One that was being signed may have become a certificate.
    fn counts(&self, now: SystemTime) -> bool {
        match &self.request {
            Some(_) => now < self.at + LONGEST_LIFE + CLOCKS_DIFFER,
            None => self.is_young(now),
        }
    }
}

impl Admission {
    /// Whether its kubelet has a certificate for this address.
    #[must_use]
    pub fn keeps(&self, address: IpAddr) -> bool {
        self.address.is_some_and(|its| is_same(its, address))
    }

    /// The only address that its kubelet may have a certificate for, if there is one.
    #[must_use]
    pub fn bound_to(&self) -> Option<IpAddr> {
        let signed = self.claim.as_ref().filter(|its| its.request.is_some());
        signed.map(|its| its.address).or(self.address)
    }

    /// The record with a claim to this address; `None` if it has one that counts.
    #[must_use]
    pub fn claiming(&self, address: IpAddr, now: SystemTime) -> Option<Self> {
        let present = self.claim.as_ref().filter(|its| its.is_for(address));
        if present.is_some_and(|its| its.counts(now)) {
            return None;
        }
        Some(Self {
            claim: Some(AddressClaim {
                address,
                at: now,
                request: None,
            }),
            ..self.clone()
        })
    }

    /// The record while this request is being signed for its claim to this address. If that was done for another request, a certificate may
    /// be there, and the node keeps the address. The record is another one than before in any case.
    #[must_use]
    pub(in crate::kubernetes) fn signing(
        &self,
        address: IpAddr,
        request: &str,
        now: SystemTime,
    ) -> Self {
        let present = self.claim.as_ref().filter(|its| its.is_for(address));
        let mut at = now;
        if let Some(claim) = present
            && let Some(earlier) = &claim.request
        {
            if earlier != request {
                return self.signed(address);
            }
            if written_time(claim.at) == written_time(now) {
                at += Duration::from_millis(1);
            }
        }
        Self {
            claim: Some(AddressClaim {
                address,
                at,
                request: Some(request.to_owned()),
            }),
            ..self.clone()
        }
    }

    /// The record of a node whose kubelet has a certificate for this address.
    #[must_use]
    pub fn signed(&self, address: IpAddr) -> Self {
        Self {
            address: Some(address),
            claim: None,
            ..self.clone()
        }
    }

    /// The record without its claim.
    #[must_use]
    pub fn without_claim(&self) -> Self {
        Self {
            claim: None,
            ..self.clone()
        }
    }

    /// The records whose claims to this address give way to the claim of this one: they are later, or have ended.
    ///
    /// # Errors
    /// Another node goes first, or a damaged record may have the address, so this one waits.
    pub fn competitors<'a>(
        &self,
        address: IpAddr,
        all: &'a Admissions,
        now: SystemTime,
    ) -> Result<Vec<&'a Self>, String> {
        let own = self.claim.as_ref().filter(|its| its.is_for(address));
        let mut behind = Vec::new();
        if own.is_some_and(|own| own.request.is_some()) {
            // It went first already, and others wait for it.
            return Ok(behind);
        }
        // Its address and its claim are unknown.
        if let Some(damaged) = all.damaged.first() {
            return Err(damaged.holds_up());
        }
        for record in all.records.values() {
            let other = record.claim.as_ref().filter(|its| its.is_for(address));
            let Some(other) = other else {
                continue;
            };
            if record.node == self.node || record.removed.is_some() {
                continue;
            }
            let is_later = own.is_some_and(|own| {
                other.request.is_none() && (own.at, &self.node) < (other.at, &record.node)
            });
            if other.counts(now) && !is_later {
                let node = &record.node;
                let at = humantime::format_rfc3339_seconds(other.at);
                return Err(format!(
                    "it waits for node `{node}`, which has claimed {address} at {at}; if that node is not to join, run `nodelet cluster remove {node}` on a master"
                ));
            }
            behind.push(record);
        }
        Ok(behind)
    }
}

/// An IPv4 address is the same in both forms.
fn is_same(one: IpAddr, other: IpAddr) -> bool {
    one.to_canonical() == other.to_canonical()
}

#[cfg(test)]
mod tests;
