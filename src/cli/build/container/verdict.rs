//! Why Docker did not do it, in our words, and what to do about it. Pure: from what `docker` printed to an error.

use crate::error::{Error, Kind};

/// What a build is about, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct About<'a> {
    pub image: &'a str,
    /// `linux/amd64`.
    pub platform: &'a str,
}

const OR_HERE: &str = "or set `container = false` in [build] to build on this machine";

/// `docker` itself could not be started.
pub(super) fn not_started(e: Error) -> Error {
    match e.kind() {
        Kind::NotFound => {
            Error::new(Kind::Build, "this app is built in a container, and there is no `docker` on the PATH")
                .hint(format!("install Docker, {OR_HERE}"))
        }
        Kind::Interrupted => e,
        _ => e.with_kind(Kind::Build),
    }
}

/// `docker` ended badly while it should `doing`.
pub(super) fn failed(doing: &str, about: About<'_>, said: Vec<String>) -> Error {
    known(about, &said)
        .unwrap_or_else(|| Error::new(Kind::Build, format!("docker could not {doing}")))
        .with_detail(said)
}

/// The image is not here, and did not come.
pub(super) fn pull(about: About<'_>, said: Vec<String>) -> Error {
    let About { image, platform } = about;
    let text = said.join("\n").to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let error = |why: &str| Error::new(Kind::Build, format!("the image {image} {why}"));
    let error = if let Some(known) = known(about, &said) {
        known
    } else if has(&["no matching manifest", "no match for platform", "does not match the specified platform"]) {
        error(&format!("is not made for {platform}"))
            .hint("name one that is by `image` in [build], or take the target out of `targets`")
    } else if has(&["unauthorized", "denied", "authentication required", "forbidden"]) {
        error("cannot be pulled: the registry does not give it to you, or there is none of that name")
            .hint("look at `image` in [build]; `docker login` if it is private")
    } else if has(&["manifest unknown", "not found", "does not exist", "name unknown"]) {
        error("is not in its registry").hint("look at `image` in [build]")
    } else {
        error("is not here, and cannot be pulled")
            .hint("are you online? an image that was made or loaded here (`docker load`) is not pulled")
    };
    error.with_detail(said)
}

/// What has nothing to do with the step that met it.
fn known(about: About<'_>, said: &[String]) -> Option<Error> {
    let text = said.join("\n").to_lowercase();
    let has = |part: &str| text.contains(part);
    let error = |message: String, hint: String| Some(Error::new(Kind::Build, message).hint(hint));
    if has("permission denied") && (has("docker daemon socket") || has("docker api") || has("docker.sock")) {
        return error(
            "this app is built in a container, and you may not use the Docker engine".into(),
            "`sudo usermod -aG docker $USER`, then log in again".into(),
        );
    }
    if has("cannot connect to the docker daemon") || has("is the docker daemon running") || has("error during connect")
    {
        return error(
            "this app is built in a container, and the Docker engine does not answer".into(),
            format!("start it (`sudo systemctl start docker`, or Docker Desktop), {OR_HERE}"),
        );
    }
    if has("exec format error") {
        let arch = about.platform.rsplit('/').next().unwrap_or_default();
        return error(
            format!("this machine cannot run programs for {}", about.platform),
            format!("`docker run --privileged --rm tonistiigi/binfmt --install {arch}` teaches it to emulate them"),
        );
    }
    if has("\"/bin/sh\"") && (has("no such file") || has("not found")) {
        return error(
            format!("the image {} has no /bin/sh", about.image),
            "a builder image needs a shell; name another by `image` in [build]".into(),
        );
    }
    if has("no space left on device") {
        return error("the Docker engine's disk is full".into(), "`docker system prune` makes room".into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About<'_> = About { image: "me/builder:v1", platform: "linux/arm64" };

    /// The words of several generations of Docker.
    #[test]
    fn known_causes_are_named_with_a_next_step() {
        let check = |said: &str, message: &str, hint: &str| {
            for e in [failed("do it", ABOUT, vec![said.into()]), pull(ABOUT, vec!["x".into(), said.into()])] {
                assert!(e.to_string().contains(message), "{said}: {e}");
                assert!(e.next_step().unwrap().contains(hint), "{said}: {:?}", e.next_step());
                assert_eq!((e.kind(), e.detail().last().unwrap().as_str()), (Kind::Build, said));
            }
        };
        check(
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
            "does not answer",
            "systemctl start docker",
        );
        check(
            "error during connect: Get \"http://x\": dial tcp 127.0.0.1:2375: connect: connection refused",
            "does not answer",
            "container = false",
        );
        check(
            "Got permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get …",
            "you may not use",
            "usermod",
        );
        check(
            "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock",
            "you may not use",
            "usermod",
        );
        check("exec /bin/sh: exec format error", "cannot run programs for linux/arm64", "--install arm64");
        check("standard_init_linux.go:228: exec user process caused: exec format error", "linux/arm64", "binfmt");
        check(
            "exec: \"/bin/sh\": stat /bin/sh: no such file or directory: unknown",
            "me/builder:v1 has no /bin/sh",
            "image",
        );
        check("write /x: no space left on device", "disk is full", "prune");
    }

    #[test]
    fn an_image_that_does_not_come_says_why() {
        let check = |said: &str, message: &str, hint: &str| {
            let e = pull(ABOUT, vec![said.into()]);
            assert!(e.to_string().contains(message), "{said}: {e}");
            assert!(e.next_step().unwrap().contains(hint), "{said}: {:?}", e.next_step());
        };
        check("dial tcp: lookup ghcr.io on 10.0.0.1:53: no such host", "is not here, and cannot be pulled", "online");
        check("net/http: TLS handshake timeout", "cannot be pulled", "docker load");
        check("Error response from daemon: manifest unknown", "is not in its registry", "`image`");
        check(
            "pull access denied for x, repository does not exist or may require 'docker login'",
            "does not give",
            "login",
        );
        check(
            "no matching manifest for linux/arm64 in the manifest list entries",
            "not made for linux/arm64",
            "targets",
        );
    }

    #[test]
    fn what_is_not_known_is_shown() {
        let e = failed("create a container", ABOUT, vec!["Error response from daemon: oops".into()]);
        assert_eq!(e.to_string(), "docker could not create a container");
        assert_eq!(e.detail(), ["Error response from daemon: oops"]);
        let e = not_started(Error::new(Kind::NotFound, "run `docker`"));
        assert!(e.kind() == Kind::Build && e.to_string().contains("no `docker` on the PATH"), "{e}");
    }
}
