//! A job in HCL, read without Nomad. Nothing is evaluated: variables, functions and `for` are kept as unknown, and a
//! `dynamic` block is named.
//!
//! <https://developer.hashicorp.com/nomad/docs/job-specification>

use std::ops::Range;

use hcl_edit::{
    Span as _,
    expr::Expression,
    structure::{Block, BlockLabel, Body},
    template::{Element, Template},
};

use super::{
    Unreadable,
    job::{Delay, Group, Job, List, Misfit, Ports, Service, Task, Text, Unread},
    misfit,
};

/// Reads a job.
///
/// # Errors
///
/// When `text` is no HCL, or has no job in it.
pub(super) fn read(text: &str) -> Result<Job, Unreadable> {
    let file = hcl_edit::parser::parse_body(text).map_err(|error| {
        let place = error.location();
        Unreadable::Hcl {
            line: place.line(),
            column: place.column(),
            problem: with_advice(error.message()),
        }
    })?;
    let mut reader = Reader {
        text,
        lines: text.match_indices('\n').map(|(at, _)| at).collect(),
        unread: Vec::new(),
    };
    let mut jobs = file.get_blocks("job");
    let job = jobs.next().ok_or(Unreadable::NoJob)?;
    let others = jobs.count();
    if others > 0 {
        return Err(Unreadable::ManyJobs(1 + others));
    }
    let mut job = reader.job(job);
    job.unread = reader.unread;
    Ok(job)
}

/// The parser names what may stand there. Mostly an end of line is missing, and Nomad says so.
fn with_advice(problem: &str) -> String {
    let is_of_lines = problem.contains("newline") || problem.contains("expected `=`");
    let advice = if is_of_lines {
        ": each argument, and each block in a block, needs a line of its own"
    } else {
        ""
    };
    format!("{problem}{advice}")
}

pub(super) struct Reader<'a> {
    text: &'a str,
    /// Where lines end.
    lines: Vec<usize>,
    unread: Vec<Unread>,
}

impl Reader<'_> {
    fn job(&mut self, block: &Block) -> Job {
        let body = &block.body;
        self.note_dynamic(body, &["group", "task"]);
        let id = ["id", "name"].map(|key| self.attribute(body, key));
        let id = id.into_iter().flatten().find(|text| text.is_whole);
        let mut groups: Vec<_> = body
            .get_blocks("group")
            .map(|group| self.group(group))
            .collect();
        // Nomad puts a group of the same name around it.
        groups.extend(body.get_blocks("task").map(|block| {
            let task = self.task(block);
            Group {
                name: task.name.clone(),
                tasks: vec![task],
                ..Group::default()
            }
        }));
        Job {
            name: id.map_or_else(|| label(block), |id| id.known),
            namespace: self.attribute(body, "namespace"),
            groups,
            unread: Vec::new(),
            misfits: misfit::of_owner(self, body),
        }
    }

    fn group(&mut self, block: &Block) -> Group {
        self.note_dynamic(&block.body, &["task", "service"]);
        Group {
            name: label(block),
            shutdown_delay: self.delay(&block.body),
            ports: ports(&block.body),
            services: self.services(&block.body),
            tasks: block
                .body
                .get_blocks("task")
                .map(|task| self.task(task))
                .collect(),
            misfits: misfit::of_owner(self, &block.body),
        }
    }

    fn task(&mut self, block: &Block) -> Task {
        self.note_dynamic(&block.body, &["service"]);
        Task {
            name: label(block),
            shutdown_delay: self.delay(&block.body),
            has_lifecycle: block.body.has_blocks("lifecycle"),
            ports: in_resources(&block.body),
            services: self.services(&block.body),
            misfits: misfit::of_owner(self, &block.body),
        }
    }

    fn services(&self, body: &Body) -> Vec<Service> {
        let services = body.get_blocks("service").map(|block| Service {
            line: self.line(block.ident.span()),
            name: self.attribute(&block.body, "name"),
            provider: self.attribute(&block.body, "provider"),
            port: self.attribute(&block.body, "port"),
            address: self.attribute(&block.body, "address"),
            address_mode: self.attribute(&block.body, "address_mode"),
            tags: self.list(&block.body, "tags"),
            canary_tags: self.list(&block.body, "canary_tags"),
            misfits: misfit::of_service(self, &block.body),
        });
        services.collect()
    }

    /// `dynamic "service" { … }` makes services out of a list.
    fn note_dynamic(&mut self, body: &Body, kinds: &[&str]) {
        for block in body.get_blocks("dynamic") {
            let what = label(block);
            if kinds.contains(&&*what) {
                let line = self.line(block.ident.span());
                self.unread.push(Unread { line, what });
            }
        }
    }

    fn attribute(&self, body: &Body, key: &str) -> Option<Text> {
        let value = &body.get_attribute(key)?.value;
        let text = self.value(value);
        // Nothing is written, for Nomad.
        text.filter(|text| !(text.is_whole && text.known.is_empty()))
    }

    /// The text that an expression is, or `None` for `null`.
    fn value(&self, value: &Expression) -> Option<Text> {
        let text = |text: String| Some(Text::new(text, self.line(value.span())));
        match value {
            Expression::Null(_) => None,
            Expression::String(string) => text(string.value().clone()),
            Expression::Bool(bool) => text(bool.value().to_string()),
            Expression::Number(number) => text(number.value().to_string()),
            Expression::Parenthesis(inner) => self.value(inner.inner()),
            Expression::StringTemplate(template) => {
                Some(self.template(template.iter(), value.span()))
            }
            Expression::HeredocTemplate(heredoc) => {
                let template: &Template = &heredoc.template;
                Some(self.template(template.iter(), value.span()))
            }
            Expression::Array(_)
            | Expression::Object(_)
            | Expression::Variable(_)
            | Expression::Conditional(_)
            | Expression::FuncCall(_)
            | Expression::Traversal(_)
            | Expression::UnaryOp(_)
            | Expression::BinaryOp(_)
            | Expression::ForExpr(_) => Some(self.unknown(value.span())),
        }
    }

    /// A template as far as it is literal.
    fn template<'a>(
        &self,
        elements: impl Iterator<Item = &'a Element>,
        span: Option<Range<usize>>,
    ) -> Text {
        let mut text = Text {
            is_whole: true,
            ..self.unknown(span)
        };
        for element in elements {
            let Some(literal) = element.as_literal() else {
                text.is_whole = false;
                break;
            };
            text.known.push_str(literal);
        }
        // What Nomad puts in where the job runs is unknown, too.
        let known = Text::new(text.known, None);
        text.is_whole &= known.is_whole;
        text.known = known.known;
        text
    }

    /// An expression of which nothing is known.
    fn unknown(&self, span: Option<Range<usize>>) -> Text {
        let line = self.line(span.clone());
        let written = span.and_then(|span| self.text.get(span));
        Text {
            written: written.unwrap_or_default().trim_matches('"').to_owned(),
            line,
            ..Text::default()
        }
    }

    fn list(&self, body: &Body, key: &str) -> List {
        let Some(attribute) = body.get_attribute(key) else {
            return List::of(Vec::new(), None);
        };
        let line = self.line(attribute.key.span());
        let value = unwrapped(&attribute.value);
        let texts = if let Some(texts) = value.as_array() {
            texts.iter().filter_map(|text| self.value(text)).collect()
        } else if value.as_str().is_some() {
            // No list, but it is plain what was meant.
            self.value(value).into_iter().collect()
        } else if is_literal(value) {
            Vec::new()
        } else {
            return List { texts: None, line };
        };
        List::of(texts, line)
    }

    pub(super) fn misfit(&self, span: Option<Range<usize>>, text: String) -> Misfit {
        Misfit {
            line: self.line(span),
            text,
        }
    }

    fn delay(&self, body: &Body) -> Delay {
        match self.attribute(body, "shutdown_delay") {
            None => Delay::default(),
            Some(text) => text.whole().map_or(Delay::Unknown, Delay::parse),
        }
    }

    /// Counted from one.
    fn line(&self, span: Option<Range<usize>>) -> Option<usize> {
        let start = span?.start;
        Some(self.lines.partition_point(|end| *end < start) + 1)
    }
}

/// What the `network` blocks of `body` declare.
fn ports(body: &Body) -> Ports {
    let networks = || body.get_blocks("network").map(|network| &network.body);
    let may_be_more =
        is_made(body, "network") || networks().any(|network| is_made(network, "port"));
    Ports::of(
        networks()
            .flat_map(|network| network.get_blocks("port"))
            .map(label),
        may_be_more,
    )
}

/// What a task declares for itself.
fn in_resources(task: &Body) -> Ports {
    let resources = task.get_blocks("resources");
    let ports: Vec<_> = resources.map(|resources| ports(&resources.body)).collect();
    let may_be_more = ports.iter().any(|ports| ports.may_be_more);
    let labels = ports.into_iter().flat_map(|ports| ports.labels);
    Ports::of(labels, may_be_more || is_made(task, "resources"))
}

/// Whether a `dynamic` block makes blocks of this kind.
fn is_made(body: &Body, kind: &str) -> bool {
    body.get_blocks("dynamic").any(|block| label(block) == kind)
}

/// Without parentheses around it.
pub(super) fn unwrapped(mut value: &Expression) -> &Expression {
    while let Expression::Parenthesis(inner) = value {
        value = inner.inner();
    }
    value
}

/// Whether it is neither a text nor a list, whatever Nomad makes of it.
pub(super) fn is_literal(value: &Expression) -> bool {
    value.is_null() || value.is_number() || value.is_bool() || value.is_object()
}

fn label(block: &Block) -> String {
    let label = block.labels.first().map(BlockLabel::as_str);
    label.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const JOB: &str = r#"
variable "tags" { type = list(string) }

job "web" {
  id = "shop-web"

  group "app" {
    shutdown_delay = "8s"
    service {
      name = "web-${NOMAD_ALLOC_INDEX}"
      tags = [
        "haproxy.enable=true",
        "haproxy.weight=${var.weight}",
        format("haproxy.maxconn=%d", 5),
      ]
      canary_tags = concat(var.tags, ["x"])
    }
    dynamic "service" {
      for_each = var.tags
      content {}
    }
    task "server" {
      shutdown_delay = var.delay
      service {
        port = 80
      }
    }
  }
  task "alone" {}
}
"#;

    #[test]
    fn what_is_literal_is_read_with_its_line_and_the_rest_is_unknown() {
        let job = read(JOB).unwrap();
        assert_eq!(job.name, "shop-web");
        let group = &job.groups[0];
        assert_eq!(group.shutdown_delay, Delay::Known(Duration::from_secs(8)));
        assert_eq!(group.runs_on_for(None), Delay::Unknown);
        let service = &group.services[0];
        assert_eq!(service.line, Some(9));
        let name = service.name.as_ref().unwrap();
        assert_eq!((name.whole(), &*name.known), (None, "web-"));
        let tags: Vec<_> = service.tags.texts().iter().collect();
        let known = tags.iter().map(|tag| (&*tag.known, tag.is_whole, tag.line));
        assert_eq!(
            known.collect::<Vec<_>>(),
            [
                ("haproxy.enable=true", true, Some(12)),
                ("haproxy.weight=", false, Some(13)),
                ("", false, Some(14)),
            ]
        );
        assert_eq!(tags[1].written, "haproxy.weight=${var.weight}");
        assert_eq!(tags[2].written, "format(\"haproxy.maxconn=%d\", 5)");
        assert_eq!(service.canary_tags.texts, None);
        assert_eq!(service.canary_tags.line, Some(16));
        let port = &group.tasks[0].services[0].port;
        assert_eq!(port.as_ref().and_then(Text::whole), Some("80"));
        assert_eq!(
            job.unread,
            [Unread {
                line: Some(18),
                what: "service".to_owned()
            }]
        );
        assert_eq!(job.groups[1].tasks[0].name, "alone");
    }

    #[test]
    fn what_is_no_job_is_named_with_its_place() {
        let refusal = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(
            refusal("variable \"x\" {}"),
            "there is no job in it: give a job file in HCL, or what `nomad job run -output` prints"
        );
        assert_eq!(
            refusal("job \"x\" {\n  group = = 1\n}"),
            "it is no job in HCL: line 2, column 11: invalid expression; expected `\"`, `[`, `{`, `-`, `!`, `(`, `_`, `<`, letter or \
             digit"
        );
        for line in ["port \"http\" {}", "mode = \"bridge\" port \"http\" {}"] {
            let text = refusal(&format!("job \"x\" {{\n  network {{ {line} }}\n}}"));
            let advice = ": each argument, and each block in a block, needs a line of its own";
            assert!(text.ends_with(advice), "{text}");
        }
        // As deep as it may be.
        let deep = format!("job \"x\" {{ a = {}", "[".repeat(1_000_000));
        assert!(
            refusal(&deep).contains("at most 64 nested levels"),
            "{}",
            refusal(&deep)
        );
    }
}
