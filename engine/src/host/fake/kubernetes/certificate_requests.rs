//! Requests for certificates in the cluster of a fake host. As on a real API server, the requester is the user of the kubeconfig, a decision
//! cannot be taken back, and only an approved request gets a certificate, once.

use std::time::Duration;

use crate::host::fake::fake_host::FakeHost;
use crate::host::fake::world::World;
use crate::host::{
    CertificateRequest, CertificateRequestList, CertificateRequests, ClusterAccess, HostError,
    HostResult, LONGEST_REQUEST, ListedRequest, NewCertificateRequest, RequestState,
};

const DEADLINE: Duration = Duration::from_secs(10);

#[async_trait::async_trait]
impl CertificateRequests for FakeHost {
    async fn certificate_requests(
        &self,
        access: &ClusterAccess,
        signer: &str,
        _limit: Duration,
    ) -> HostResult<CertificateRequestList> {
        self.observe("certificate_requests", signer, DEADLINE, |world| {
            world.reach(access, "list the requests for certificates")?;
            let all = world.cluster.requests.values();
            Ok(CertificateRequestList {
                requests: all
                    .filter(|its| its.signer == signer)
                    .map(CertificateRequest::listed)
                    .collect(),
                has_more: world.cluster.has_more_requests,
            })
        })
        .await
    }

    async fn certificate_request(
        &self,
        access: &ClusterAccess,
        name: &str,
    ) -> HostResult<Option<CertificateRequest>> {
        self.observe("certificate_request", name, DEADLINE, |world| {
            let action = format!("get the certificate request {name}");
            world.reach(access, &action)?;
            world.authenticate(access, &action)?;
            Ok(world.cluster.requests.get(name).cloned())
        })
        .await
    }

    async fn accepts_identity(&self, kubeconfig: &str, timeout: Duration) -> HostResult<bool> {
        self.observe("accepts_identity", "of a kubeconfig", timeout, |world| {
            if !world.api_up() {
                let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                return Err(HostError::service("ask who this host is", refused));
            }
            let (user, _) = world.user_in(kubeconfig);
            Ok(!world.refuses_user(&user))
        })
        .await
    }

    async fn create_certificate_request(
        &self,
        access: &ClusterAccess,
        new: &NewCertificateRequest,
    ) -> HostResult<bool> {
        let name = new.name.as_str();
        self.mutate("create_certificate_request", name, DEADLINE, |world| {
            let action = format!("create the certificate request {name}");
            world.reach(access, &action)?;
            world.authenticate(access, &action)?;
            if world.cluster.requests.contains_key(name) {
                return Ok(false);
            }
            let (requester, groups) = world.user_of(access);
            world.certificate_request(new, &requester, &groups);
            Ok(true)
        })
        .await
    }

    async fn approve_certificate_request(
        &self,
        access: &ClusterAccess,
        request: &CertificateRequest,
        _reason: &str,
    ) -> HostResult<()> {
        self.decide(access, request, "approve", &RequestState::Approved)
            .await
    }

    async fn deny_certificate_request(
        &self,
        access: &ClusterAccess,
        request: &CertificateRequest,
        reason: &str,
    ) -> HostResult<()> {
        let denied = RequestState::Denied(reason.to_owned());
        self.decide(access, request, "deny", &denied).await
    }

    async fn set_certificate(
        &self,
        access: &ClusterAccess,
        of: &CertificateRequest,
        certificate: &[u8],
    ) -> HostResult<()> {
        let name = of.name.as_str();
        self.mutate("set_certificate", name, DEADLINE, |world| {
            let action = format!("store the certificate of request {name}");
            world.reach(access, &action)?;
            let request = world.same_request(of);
            let request = request.ok_or_else(|| refused(&action, "the request is gone"))?;
            if request.certificate.is_some() {
                return Err(refused(&action, "it has a certificate already"));
            }
            if request.state != RequestState::Approved {
                return Err(refused(&action, "it is not approved"));
            }
            request.certificate = Some(certificate.to_vec());
            Ok(())
        })
        .await
    }

    async fn delete_certificate_request(
        &self,
        access: &ClusterAccess,
        request: &ListedRequest,
    ) -> HostResult<()> {
        let name = request.name.as_str();
        self.mutate("delete_certificate_request", name, DEADLINE, |world| {
            let action = format!("delete the certificate request {name}");
            world.reach(access, &action)?;
            let present = world.cluster.requests.get(name);
            match present.filter(|its| its.uid == request.uid) {
                Some(present) if present.certificate.is_some() && request.is_open() => {
                    return Err(refused(&action, "it has a certificate already"));
                }
                Some(_) => drop(world.cluster.requests.remove(name)),
                None => {}
            }
            Ok(())
        })
        .await
    }
}

impl FakeHost {
    async fn decide(
        &self,
        access: &ClusterAccess,
        of: &CertificateRequest,
        verb: &'static str,
        state: &RequestState,
    ) -> HostResult<()> {
        let name = of.name.as_str();
        self.mutate("decide_certificate_request", name, DEADLINE, |world| {
            let action = format!("{verb} the certificate request {name}");
            world.reach(access, &action)?;
            let request = world.same_request(of);
            let request = request.ok_or_else(|| refused(&action, "the request is gone"))?;
            match (&request.state, state) {
                (RequestState::Pending, _) => request.state = state.clone(),
                (RequestState::Approved, RequestState::Approved)
                | (RequestState::Denied(_), RequestState::Denied(_)) => {}
                (present, _) => return Err(refused(&action, &format!("it is {present:?}"))),
            }
            Ok(())
        })
        .await
    }
}

fn refused(action: &str, problem: &str) -> HostError {
    HostError::refused(action.to_owned(), problem.to_owned())
}

impl World {
    /// Puts a request of this user into the cluster.
    pub fn certificate_request(
        &mut self,
        new: &NewCertificateRequest,
        requester: &str,
        groups: &[String],
    ) {
        let mut request = new.request.clone();
        if request.len() > LONGEST_REQUEST {
            request.clear();
        }
        let request = CertificateRequest {
            name: new.name.clone(),
            uid: self.cluster.next_uid(),
            requester: requester.to_owned(),
            groups: groups.to_vec(),
            signer: new.signer.clone(),
            request,
            usages: new.usages.clone(),
            state: RequestState::Pending,
            certificate: None,
            created: Some(self.now()),
        };
        self.cluster.requests.insert(new.name.clone(), request);
    }

    /// The present state of this request; `None` if it is gone, or another request has its name.
    fn same_request(&mut self, of: &CertificateRequest) -> Option<&mut CertificateRequest> {
        let present = self.cluster.requests.get_mut(&of.name);
        present.filter(|present| present.uid == of.uid)
    }

    /// From now on, a list of requests says that there are more, or that there are none.
    pub fn has_more_requests(&mut self, has_more: bool) {
        self.cluster.has_more_requests = has_more;
    }

    /// From now on, the API server refuses (`true`) or accepts this user when it asks for certificates.
    pub fn refuse_user(&mut self, user: &str, refused: bool) {
        if refused {
            self.cluster.refused.insert(user.to_owned());
        } else {
            self.cluster.refused.remove(user);
        }
    }

    /// Whether the API server refuses this user when it asks for certificates.
    #[must_use]
    pub fn refuses_user(&self, user: &str) -> bool {
        self.cluster.refused.contains(user)
    }

    /// The API server's answer to an identity that is over.
    fn authenticate(&self, access: &ClusterAccess, action: &str) -> HostResult<()> {
        let (user, _) = self.user_of(access);
        match self.refuses_user(&user) {
            true => Err(refused(action, "Unauthorized (status 401)")),
            false => Ok(()),
        }
    }

    /// Denies a pending request as a master on another host does.
    ///
    /// # Panics
    /// There is no such request.
    pub fn deny_request(&mut self, name: &str, reason: &str) {
        let request = self.cluster.requests.get_mut(name);
        let request = request.expect("the request is there");
        request.state = RequestState::Denied(reason.to_owned());
    }

    /// Signs a request as a master on another host does.
    ///
    /// # Panics
    /// There is no such request.
    pub fn sign_request(&mut self, name: &str, certificate: &[u8]) {
        let request = self.cluster.requests.get_mut(name);
        let request = request.expect("the request is there");
        request.state = RequestState::Approved;
        request.certificate = Some(certificate.to_vec());
    }

    /// The requests for certificates.
    #[must_use]
    pub fn certificate_requests(&self) -> Vec<CertificateRequest> {
        self.cluster.requests.values().cloned().collect()
    }

    /// The user of a kubeconfig with its groups: the one of its token, or the kubelet of this host.
    fn user_of(&self, access: &ClusterAccess) -> (String, Vec<String>) {
        let text = self.tree.text(&access.kubeconfig).unwrap_or_default();
        self.user_in(&text)
    }

    /// The user of the kubeconfig with this text.
    fn user_in(&self, kubeconfig: &str) -> (String, Vec<String>) {
        let mut lines = kubeconfig.lines().map(str::trim);
        let token = lines.find_map(|line| line.trim_start_matches("- ").strip_prefix("token:"));
        let token = token.map(|its| its.trim().trim_matches(['"', '\'']));
        let (user, group) = match token.and_then(|its| its.split_once('.')) {
            Some((id, _)) => (
                format!("system:bootstrap:{id}"),
                "system:bootstrappers:nodelet",
            ),
            None => (format!("system:node:{}", self.node_name()), "system:nodes"),
        };
        (
            user,
            vec![group.to_owned(), "system:authenticated".to_owned()],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (FakeHost, ClusterAccess) {
        let host = FakeHost::new()
            .with_file(
                "/etc/bootstrap",
                "users:\n- user:\n    token: abcdef.0123456789abcdef\n",
            )
            .with_file("/etc/kubeconfig", "")
            .with_kubernetes(|rules| rules.remote_api = true);
        (host, ClusterAccess::with("/etc/kubeconfig".as_ref()))
    }

    fn new(name: &str) -> NewCertificateRequest {
        NewCertificateRequest {
            name: name.to_owned(),
            request: b"PEM".to_vec(),
            signer: "s".to_owned(),
            usages: vec!["client auth".to_owned()],
        }
    }

    #[tokio::test]
    async fn only_an_approved_request_gets_a_certificate_and_only_once() {
        let (host, access) = host();
        assert!(
            host.create_certificate_request(&access, &new("a"))
                .await
                .unwrap()
        );
        assert!(
            !host
                .create_certificate_request(&access, &new("a"))
                .await
                .unwrap()
        );
        let made = host.certificate_request(&access, "a").await.unwrap();
        let made = &made.unwrap();
        let set = host.set_certificate(&access, made, b"c").await;
        set.unwrap_err();
        for _ in 0..2 {
            let approved = host.approve_certificate_request(&access, made, "").await;
            approved.unwrap();
        }
        let denied = host.deny_certificate_request(&access, made, "").await;
        denied.unwrap_err();
        host.set_certificate(&access, made, b"c").await.unwrap();
        let set = host.set_certificate(&access, made, b"d").await;
        set.unwrap_err();
        let deleted = host
            .delete_certificate_request(&access, &made.listed())
            .await;
        deleted.unwrap_err();
        let found = host.certificate_request(&access, "a").await.unwrap();
        let found = found.unwrap();
        assert_eq!(found.certificate.as_deref(), Some(&b"c"[..]));
        // Read with its certificate, it can be deleted.
        let listed = found.listed();
        let deleted = host.delete_certificate_request(&access, &listed);
        deleted.await.unwrap();
        assert_eq!(host.certificate_request(&access, "a").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_request_that_was_made_again_is_another_one() {
        let (host, access) = host();
        let made = async || {
            let made = host.create_certificate_request(&access, &new("a")).await;
            assert!(made.unwrap());
            let found = host.certificate_request(&access, "a").await;
            found.unwrap().unwrap()
        };
        let first = made().await;
        host.delete_certificate_request(&access, &first.listed())
            .await
            .unwrap();
        let second = made().await;
        for decided in [
            host.approve_certificate_request(&access, &first, "").await,
            host.deny_certificate_request(&access, &first, "").await,
            host.set_certificate(&access, &first, b"c").await,
        ] {
            decided.unwrap_err();
        }
        host.delete_certificate_request(&access, &first.listed())
            .await
            .unwrap();
        let present = host.certificate_request(&access, "a").await.unwrap();
        assert_eq!(present.as_ref(), Some(&second));
        host.delete_certificate_request(&access, &second.listed())
            .await
            .unwrap();
        assert_eq!(host.certificate_request(&access, "a").await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_kubeconfig_decides_who_asks() {
        let (host, node) = host();
        let bootstrap = ClusterAccess::with("/etc/bootstrap".as_ref());
        host.create_certificate_request(&bootstrap, &new("a"))
            .await
            .unwrap();
        host.create_certificate_request(&node, &new("b"))
            .await
            .unwrap();
        let found = host
            .certificate_requests(&node, "s", DEADLINE)
            .await
            .unwrap();
        let requesters: Vec<&str> = found
            .requests
            .iter()
            .map(|its| its.requester.as_str())
            .collect();
        assert_eq!(requesters[0], "system:bootstrap:abcdef");
        assert!(requesters[1].starts_with("system:node:"), "{requesters:?}");
        let others = host
            .certificate_requests(&node, "t", DEADLINE)
            .await
            .unwrap();
        assert_eq!(others, CertificateRequestList::default());
    }
}
