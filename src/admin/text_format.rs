//! The metrics in Prometheus's older text format, for readers that do not ask for `OpenMetrics`: `promtool check metrics`,
//! older Prometheus, `curl`. The samples are the same; what is said of them is about the sample's name there.

/// `text` of `OpenMetrics` in the text format 0.0.4.
#[must_use]
pub fn to_text_format(text: &str) -> String {
    let mut converted = String::with_capacity(text.len());
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
            continue;
        }
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some((_, help)) = help.take_if(|(of, _)| *of == name) {
                let help = help.trim_end_matches('.');
                converted.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            converted.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
            continue;
        }
        if !line.starts_with("# ") {
            converted.extend([line, "\n"]);
        }
    }
    converted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_sample_names_it_as_it_is_named() {
        let text = "# HELP build The program.\n# TYPE build info\nbuild_info{version=\"1\"} 1\n\
                    # HELP seconds Time.\n# TYPE seconds gauge\n# UNIT seconds seconds\nseconds 2.5\n\
                    # HELP cuts Cuts.\n# TYPE cuts counter\ncuts_total 3\n# EOF\n";
        let expected = "# HELP build_info The program\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n\
                        # HELP seconds Time\n# TYPE seconds gauge\nseconds 2.5\n\
                        # HELP cuts_total Cuts\n# TYPE cuts_total counter\ncuts_total 3\n";
        assert_eq!(to_text_format(text), expected);
    }
}
