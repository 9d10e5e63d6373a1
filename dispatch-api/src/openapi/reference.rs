//! `/api/docs`: the document as one page, without a script and without anything from elsewhere.

use serde_json::{Map, Value, json};
use std::fmt::Write;

const STYLE: &str = include_str!("reference.css");
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
/// How deep an example goes into what a schema refers to.
const EXAMPLE_DEPTH_MAX: usize = 5;

/// The page.
pub(super) fn page(document: &Value) -> String {
    let page = Page { document };
    let mut html = String::new();
    page.write(&mut html).expect("writing to a string does not fail");
    html
}

struct Page<'a> {
    document: &'a Value,
}

/// Text as HTML; what stands between backticks is code.
struct Text<'a>(&'a str);

impl std::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut in_code = false;
        self.0.chars().try_for_each(|c| match c {
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            '`' => {
                in_code = !in_code;
                f.write_str(if in_code { "<code>" } else { "</code>" })
            }
            c => f.write_char(c),
        })
    }
}

fn text<'a>(value: &'a Value, member: &str) -> Text<'a> {
    Text(value[member].as_str().unwrap_or_default())
}

impl<'a> Page<'a> {
    fn write(&self, html: &mut String) -> std::fmt::Result {
        let info = &self.document["info"];
        let (title, version) = (text(info, "title"), text(info, "version"));
        write!(
            html,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>{title} interface</title><style>{STYLE}</style></head><body><nav aria-label=\"Resources\">"
        )?;
        let tags = || self.document["tags"].as_array().into_iter().flatten();
        for tag in tags() {
            write!(html, "<a href=\"#{0}\">{0}</a>", text(tag, "name"))?;
        }
        write!(
            html,
            "<a href=\"#schemas\">Schemas</a></nav><main><h1>{title} <span class=\"faint\">{version}</span></h1>\
             <p>{}</p><p><a href=\"/api/openapi.json\">openapi.json</a></p><h3>Signing in</h3><table>",
            text(info, "description")
        )?;
        for (name, scheme) in members(&self.document["components"]["securitySchemes"]) {
            let (name, description) = (Text(name), text(scheme, "description"));
            write!(html, "<tr><td><code>{name}</code><td>{description}")?;
        }
        html.push_str("</table>");
        for tag in tags() {
            let (name, description) = (text(tag, "name"), text(tag, "description"));
            write!(html, "<section id=\"{name}\"><h2>{name}</h2><p>{description}</p>")?;
            self.operations(tag["name"].as_str().unwrap_or_default(), html)?;
            html.push_str("</section>");
        }
        html.push_str("<section id=\"schemas\"><h2>Schemas</h2>");
        for (name, schema) in members(&self.document["components"]["schemas"]) {
            let (name, description) = (Text(name), text(schema, "description"));
            write!(
                html,
                "<details id=\"schema-{name}\"><summary><code>{name}</code><span>{description}</span></summary><div>"
            )?;
            self.fields(schema, html)?;
            html.push_str("</div></details>");
        }
        html.push_str("</section></main></body></html>");
        Ok(())
    }

    fn operations(&self, tag: &str, html: &mut String) -> std::fmt::Result {
        for (path, methods) in members(&self.document["paths"]) {
            for method in METHODS {
                let operation = &methods[method];
                if operation["tags"][0] == tag {
                    self.operation(path, method, operation, html)?;
                }
            }
        }
        Ok(())
    }

    fn operation(&self, path: &str, method: &str, operation: &Value, html: &mut String) -> std::fmt::Result {
        write!(
            html,
            "<details id=\"{}\"><summary><b class=\"method {method}\">{}</b><code>{}</code><span>{}</span></summary><div>",
            text(operation, "operationId"),
            method.to_uppercase(),
            Text(path),
            text(operation, "summary")
        )?;
        if operation["description"].is_string() {
            write!(html, "<p>{}</p>", text(operation, "description"))?;
        }
        let roles = operation["x-waypost-roles"].as_array().into_iter().flatten();
        let roles: Vec<&str> = roles.filter_map(Value::as_str).collect();
        let roles = match roles[..] {
            [] => "anybody, without a token".to_owned(),
            _ => roles.join(", "),
        };
        write!(html, "<h3>Who may</h3><p>{}</p>", Text(&roles))?;
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let mut head = "<h3>Parameters</h3><table>";
        for parameter in parameters {
            write!(
                html,
                "{head}<tr><td><code>{}</code><td><span class=\"type\">{}, {}{}</span> {}",
                text(parameter, "name"),
                text(parameter, "in"),
                self.kind(&parameter["schema"]),
                if parameter["required"] == true {
                    ", required"
                } else {
                    ""
                },
                text(parameter, "description")
            )?;
            head = "";
        }
        if head.is_empty() {
            html.push_str("</table>");
        }
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        if !body.is_null() {
            html.push_str("<h3>Body</h3>");
            self.fields(body, html)?;
        }
        html.push_str("<h3>Answers</h3><table>");
        for (status, answer) in members(&operation["responses"]) {
            let answer = self.resolve(answer);
            write!(
                html,
                "<tr><td><code>{}</code><td>{}",
                Text(status),
                text(answer, "description")
            )?;
            for (content_type, content) in members(&answer["content"]) {
                let kind = self.kind(&content["schema"]);
                write!(
                    html,
                    "<br><span class=\"type\">{} {kind}</span>",
                    Text(content_type)
                )?;
            }
        }
        write!(
            html,
            "</table><h3>Example</h3><pre>{}</pre></div></details>",
            Text(&self.curl(path, method, operation))
        )
    }

    /// The members of an object, each with its type and what it means; or what else a schema is.
    fn fields(&self, schema: &Value, html: &mut String) -> std::fmt::Result {
        let fields = self.all_fields(schema);
        if fields.is_empty() {
            return write!(
                html,
                "<p class=\"type\">{}</p>",
                self.kind_of(self.resolve(schema))
            );
        }
        html.push_str("<table>");
        for (name, (field, required)) in fields {
            write!(
                html,
                "<tr><td><code>{}</code><td><span class=\"type\">{}{}</span> {}",
                Text(name),
                self.kind(field),
                if required { ", required" } else { "" },
                text(described(field), "description")
            )?;
        }
        html.push_str("</table>");
        Ok(())
    }

    /// Those of the schema and of all that it is put together from.
    fn all_fields(&self, schema: &'a Value) -> Vec<(&'a str, (&'a Value, bool))> {
        let schema = self.resolve(schema);
        let required = |name: &str| {
            let mut names = schema["required"].as_array().into_iter().flatten();
            names.any(|required| required == name)
        };
        let own = members(&schema["properties"]).map(|(name, field)| (name, (field, required(name))));
        let parts = schema["allOf"].as_array().into_iter().flatten();
        own.chain(parts.flat_map(|part| self.all_fields(part))).collect()
    }

    fn resolve(&self, value: &'a Value) -> &'a Value {
        let pointer = value["$ref"]
            .as_str()
            .and_then(|reference| reference.strip_prefix('#'));
        pointer
            .and_then(|pointer| self.document.pointer(pointer))
            .unwrap_or(value)
    }

    /// What a schema is, in a few words; one with a name as a link to it.
    fn kind(&self, schema: &Value) -> String {
        match schema["$ref"]
            .as_str()
            .and_then(|reference| reference.rsplit_once('/'))
        {
            Some((_, name)) => format!("<a href=\"#schema-{0}\">{0}</a>", Text(name)),
            None => self.kind_of(schema),
        }
    }

    fn kind_of(&self, schema: &Value) -> String {
        if let Some(values) = schema["enum"].as_array() {
            let values: Vec<String> = values.iter().map(Value::to_string).collect();
            return Text(&values.join(" | ")).to_string();
        }
        if !schema["const"].is_null() {
            return Text(&schema["const"].to_string()).to_string();
        }
        for word in ["oneOf", "anyOf"] {
            if let Some(parts) = schema[word].as_array() {
                let parts: Vec<String> = parts.iter().map(|part| self.kind(part)).collect();
                return parts.join(" | ");
            }
        }
        if schema["items"].is_object() {
            return format!("list of {}", self.kind(&schema["items"]));
        }
        let types = match &schema["type"] {
            Value::String(name) => name.clone(),
            Value::Array(names) => {
                let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
                names.join(" | ")
            }
            _ => "anything".to_owned(),
        };
        let format = schema["format"].as_str().filter(|format| *format == "date-time");
        let bounds = ["minimum", "maximum", "minLength", "maxLength"].into_iter();
        let bounds: Vec<String> = bounds
            .filter(|bound| !schema[*bound].is_null())
            .map(|bound| format!("{bound} {}", schema[bound]))
            .collect();
        let words = [types, format.unwrap_or_default().to_owned(), bounds.join(", ")];
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        Text(&words.join(", ")).to_string()
    }

    fn curl(&self, path: &str, method: &str, operation: &Value) -> String {
        let mut line = "curl".to_owned();
        if method != "get" {
            line = format!("{line} -X {}", method.to_uppercase());
        }
        let path = path.replace("{id}", "1");
        let needed = operation["parameters"].as_array().into_iter().flatten();
        let needed = needed.filter(|parameter| parameter["in"] == "query" && parameter["required"] == true);
        let query: Vec<String> = needed
            .map(|parameter| format!("{}=1", text(parameter, "name")))
            .collect();
        let query = if query.is_empty() {
            String::new()
        } else {
            format!("?{}", query.join("&"))
        };
        line = format!("{line} \"$WAYPOST_SERVER{path}{query}\"");
        if operation["security"]
            .as_array()
            .is_some_and(|schemes| !schemes.is_empty())
        {
            line.push_str(" \\\n  -H \"Authorization: Bearer $WAYPOST_TOKEN\"");
        }
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        if !body.is_null() {
            let example = self
                .example(body, EXAMPLE_DEPTH_MAX)
                .to_string()
                .replace('\'', "'\\''");
            let _ = write!(
                line,
                " \\\n  -H 'Content-Type: application/json' \\\n  -d '{example}'"
            );
        }
        line
    }

    /// Something of this schema, with the members that it cannot do without, or all where it can do without any.
    fn example(&self, schema: &Value, depth: usize) -> Value {
        let schema = self.resolve(schema);
        let given = [
            &schema["example"],
            &schema["examples"][0],
            &schema["const"],
            &schema["enum"][0],
        ];
        if let Some(example) = given.into_iter().find(|example| !example.is_null()) {
            return example.clone();
        }
        if depth == 0 {
            return Value::Null;
        }
        let fields = self.all_fields(schema);
        if !fields.is_empty() {
            let all = !fields.iter().any(|(_, (_, required))| *required);
            let shown = fields.into_iter().filter(|(_, (_, required))| all || *required);
            let shown: Map<String, Value> = shown
                .map(|(name, (field, _))| (name.to_owned(), self.named_example(name, field, depth - 1)))
                .collect();
            return shown.into();
        }
        let one = schema["oneOf"].as_array().into_iter().flatten();
        if let Some(part) = one.into_iter().find(|part| part["type"] != "null") {
            return self.example(part, depth - 1);
        }
        let kind = schema["type"]
            .as_array()
            .map_or(&schema["type"], |kinds| &kinds[0]);
        match kind.as_str() {
            Some("array") => json!([self.example(&schema["items"], depth - 1)]),
            Some("integer" | "number") => schema["minimum"].as_u64().unwrap_or(1).max(1).into(),
            Some("boolean") => false.into(),
            Some("object") => json!({}),
            _ => "…".into(),
        }
    }

    /// Where the name says more than the schema.
    fn named_example(&self, name: &str, field: &Value, depth: usize) -> Value {
        match name {
            "email" => "anna@waypost.example".into(),
            "password" => "at least ten characters".into(),
            "name" if field["example"].is_null() => "Anna".into(),
            _ => self.example(field, depth),
        }
    }
}

/// Where a field may be null, its description stands with what else it may be.
fn described(field: &Value) -> &Value {
    if field["description"].is_string() {
        return field;
    }
    &field["oneOf"][0]
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let members = value.as_object().into_iter().flatten();
    members.map(|(name, member)| (name.as_str(), member))
}

#[cfg(test)]
mod tests {
    use super::super::DOCUMENT;
    use super::*;

    #[test]
    fn the_page_shows_every_operation_and_every_schema() {
        let html = page(&DOCUMENT);
        for (path, methods) in members(&DOCUMENT["paths"]) {
            for (method, operation) in members(methods) {
                let id = format!("<details id=\"{}\">", text(operation, "operationId"));
                assert_eq!(html.matches(&id).count(), 1, "{method} {path}");
            }
        }
        for (name, _) in members(&DOCUMENT["components"]["schemas"]) {
            assert!(html.contains(&format!("id=\"schema-{name}\"")), "{name}");
        }
        for link in html.split("href=\"#").skip(1) {
            let (id, _) = link.split_once('"').unwrap();
            assert!(html.contains(&format!("id=\"{id}\"")), "{id}");
        }
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        let html = page(&DOCUMENT);
        for word in ["<script", "src=", "@import", "url(", "http://", "https://"] {
            assert!(!html.contains(word), "{word}");
        }
    }

    #[test]
    fn text_is_not_markup() {
        assert_eq!(
            Text("<a href=\"&\">").to_string(),
            "&lt;a href=&quot;&amp;&quot;&gt;"
        );
    }
}
