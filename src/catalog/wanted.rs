//! Which services are worth reading, by their tags. Not the last word: the reconciler decides registration by
//! registration; this only has to let everything through that the reconciler could want.

/// The rule by which services are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    enable: String,
    by_default: bool,
}

impl Wanted {
    /// Services with the tag `<prefix>.enable` (bare, or with any value but `false`); all services if they are exposed
    /// `by_default`.
    #[must_use]
    pub fn new(prefix: &str, by_default: bool) -> Self {
        Self {
            enable: format!("{prefix}.enable"),
            by_default,
        }
    }

    /// Whether something with these tags may be wanted. The tags may be those of one registration or, from a list, the
    /// union over all instances of a service. An opt-out in such a union belongs to some instance and says nothing of
    /// the others, so it excludes nothing here.
    #[must_use]
    pub fn wants(&self, tags: &[String]) -> bool {
        self.by_default || tags.iter().any(|tag| self.enables(tag))
    }

    fn enables(&self, tag: &str) -> bool {
        let Some(rest) = tag.trim().strip_prefix(self.enable.as_str()) else {
            return false;
        };
        match rest.strip_prefix('=') {
            Some(value) => !value.trim().eq_ignore_ascii_case("false"),
            None => rest.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_wanted_by_its_enable_tag() {
        let table: [(&[&str], bool); 8] = [
            (&["haproxy.enable=true"], true),
            (&["haproxy.enable"], true),
            (&["v1", "haproxy.enable=true"], true),
            (&["haproxy.enable=false", "haproxy.enable=true"], true),
            (&["haproxy.enable=false"], false),
            (&["haproxy.enabled=true"], false),
            (&["other.enable=true"], false),
            (&[], false),
        ];
        for (tags, wanted) in table {
            let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
            assert_eq!(
                Wanted::new("haproxy", false).wants(&tags),
                wanted,
                "{tags:?}"
            );
        }
    }

    #[test]
    fn one_instance_that_opts_out_does_not_hide_the_others() {
        let union = ["haproxy.enable=false".to_owned(), "v2".to_owned()];
        assert!(Wanted::new("haproxy", true).wants(&union));
    }
}
