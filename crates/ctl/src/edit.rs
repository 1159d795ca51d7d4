//! The verb `edit-config`: a new configuration from an editor, files or single settings; checked, shown, confirmed and
//! stored if nobody else was faster. Editing the value itself is in `setting`, what makes one valid in `service`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ha::settings::Problem;
use serde_json::Value;
use service::config::dynamic;

use crate::cli;
use crate::context::{Cluster, Context};
use crate::fault::{Fault, Result};
use crate::{diff, setting, yaml};

/// A configuration that somebody wants.
struct Wanted {
    /// As it will be shown.
    text: String,
    /// As it will be stored.
    value: Value,
    /// The text as it was edited by hand; kept when it can't be stored.
    edited: Option<tempfile::TempPath>,
}

/// Changes the cluster's configuration.
pub(crate) async fn run(context: &Context, options: &cli::EditConfig) -> Result {
    let console = &context.console;
    let cluster = context.cluster(options.cluster.as_deref()).await?;
    let read = cluster.read().await?;
    let present = cluster.config(&read)?.clone();
    let before = yaml::print(&present.value);
    let wanted = match from_options(context, options, &present.value).await? {
        Some(value) => Wanted { text: yaml::print(&value), value, edited: None },
        None => from_editor(context, &cluster, &before).await?,
    };
    if wanted.value == present.value {
        return if options.quiet { Ok(()) } else { console.say("Not changed") };
    }
    let wanted = checked(context, &cluster, &present.value, wanted, options.force)?;
    if !options.quiet {
        console.write(&diff::unified(&before, &wanted.text, console.colourful))?;
    }
    if !options.force {
        if [&options.apply, &options.replace].into_iter().flatten().any(|file| is_stdin(file)) {
            return Err(Fault::failed("Use --force option to apply changes: standard input holds the configuration"));
        }
        if !options.quiet {
            console.say("")?;
        }
        if !console.confirm("Apply these changes?").await? {
            return console.say("Not changed");
        }
    }
    if cluster.swap_config(&wanted.value, present.revision).await? {
        return console.say("Configuration changed");
    }
    let kept = kept(&cluster, wanted.edited)?;
    Err(Fault::failed(format!("Config not changed, someone else changed it meanwhile: edit again{kept}")))
}

/// The configuration that flags and files ask for; `None` when they ask for nothing.
async fn from_options(context: &Context, options: &cli::EditConfig, present: &Value) -> Result<Option<Value>> {
    let mut wanted = None;
    if let Some(file) = &options.replace {
        // Nulls mean absent settings in a whole configuration, too.
        wanted = Some(dynamic::patch(&Value::Object(Default::default()), &mapping(context, file).await?));
    }
    if let Some(file) = &options.apply {
        let base = wanted.as_ref().unwrap_or(present);
        wanted = Some(dynamic::patch(base, &mapping(context, file).await?));
    }
    let parameters = options.pg.iter().map(|p| format!("postgresql.parameters.{}", p.trim_start()));
    for pair in options.set.iter().cloned().chain(parameters) {
        let value = wanted.get_or_insert_with(|| present.clone());
        setting::set(value, &pair).map_err(Fault::Usage)?;
    }
    Ok(wanted)
}

async fn mapping(context: &Context, file: &Path) -> Result<Value> {
    let (name, text) = match is_stdin(file) {
        true => ("standard input".to_owned(), context.console.read_all().await?),
        false => {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file).map_err(|e| Fault::failed(format!("can't read {name}: {e}")))?;
            (name, text)
        }
    };
    let value = yaml::parse(&text).map_err(|e| Fault::failed(format!("{name} is not usable YAML: {e}")))?;
    if value.is_object() { Ok(value) } else { Err(Fault::failed(format!("{name} is not a mapping of settings"))) }
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

/// Lets a person edit the text in a file that only they can read.
async fn from_editor(context: &Context, cluster: &Cluster, before: &str) -> Result<Wanted> {
    let fault = |what: &str, e: std::io::Error| Fault::failed(format!("can't {what} the text to edit: {e}"));
    let prefix = format!("{}-config-", cluster.name);
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".yaml")
        .tempfile()
        .map_err(|e| fault("create a file for", e))?;
    file.write_all(before.as_bytes()).map_err(|e| fault("write", e))?;
    let path = file.into_temp_path();
    let editor = editor()?;
    let status = {
        let _lent = context.console.lend();
        // Through a shell, so that EDITOR may have arguments.
        let mut command = tokio::process::Command::new("/bin/sh");
        command.arg("-c").arg(format!("{editor} \"$@\"")).arg(&editor).arg(&path).stdin(Stdio::inherit());
        command.status().await.map_err(|e| Fault::failed(format!("can't start the editor {editor}: {e}")))?
    };
    if !status.success() {
        return Err(Fault::failed(format!("the editor {editor} ended with {status}: nothing was changed")));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| fault("read", e))?;
    match yaml::parse(&text) {
        Ok(value) => Ok(Wanted { text, value, edited: Some(path) }),
        Err(e) => {
            let kept = kept(cluster, Some(path))?;
            Err(Fault::failed(format!("Config not changed, this is not usable YAML: {e}{kept}")))
        }
    }
}

fn editor() -> Result<String> {
    if let Some(editor) = std::env::var("EDITOR").ok().filter(|e| !e.trim().is_empty()) {
        return Ok(editor);
    }
    let folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
    let found = ["editor", "vi"].into_iter().find(|name| folders.iter().any(|f| f.join(name).is_file()));
    found.map(str::to_owned).ok_or_else(|| {
        Fault::failed("no editor: set EDITOR, or change single settings with --set KEY=VALUE and --pg PARAMETER=VALUE")
    })
}

/// Refuses what the agents couldn't use, and unless forced, names they don't know. What was there before is a warning:
/// it doesn't stand in the way of mending something else.
fn checked(context: &Context, cluster: &Cluster, present: &Value, wanted: Wanted, force: bool) -> Result<Wanted> {
    let old = judge(present, force).0;
    let (faults, warnings) = judge(&wanted.value, force);
    let line = |problem: &Problem| match problem.path.as_str() {
        "" => problem.message.clone(),
        path => format!("{path}: {}", problem.message),
    };
    let (known, new): (Vec<_>, Vec<_>) = faults.iter().partition(|fault| old.contains(fault));
    warnings.iter().chain(known).for_each(|w| context.console.note(format!("Warning: {}", line(w))));
    if new.is_empty() {
        return Ok(wanted);
    }
    let faults = new.into_iter().map(line).collect::<Vec<_>>().join("\n  ");
    let kept = kept(cluster, wanted.edited)?;
    Err(Fault::failed(format!("Config not changed, it can't be used:\n  {faults}{kept}")))
}

/// Faults and warnings. People store settings of their own there, so that a name nobody knows can be forced in.
fn judge(config: &Value, force: bool) -> (Vec<Problem>, Vec<Problem>) {
    let report = dynamic::check(config);
    let (unknown, warnings): (Vec<_>, Vec<_>) =
        report.warnings.into_iter().partition(|w| !force && w.message.starts_with("unknown setting"));
    let unknown = unknown.into_iter().map(|w| Problem { message: w.message.replace(", ignored", ""), ..w });
    (report.faults.into_iter().chain(unknown).collect(), warnings)
}

/// Keeps the edited text, if there is one, and says where.
fn kept(cluster: &Cluster, edited: Option<tempfile::TempPath>) -> Result<String> {
    let Some(path) = edited else { return Ok(String::new()) };
    let path = path.keep().map_err(|e| Fault::failed(format!("can't keep the edited text: {e}")))?;
    let file = path.display();
    Ok(format!(
        "\nYour text is kept in {file}: mend it and run `pgherdctl edit-config {} --replace {file}`",
        cluster.name
    ))
}
