//! Checks before a migration begins, on both hosts. The agents check more when they meet: versions, memory, policy, the
//! processor's features, the grant table.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::DomId;
use serde_json::{Value, json};

use super::xl::HELPER;
use crate::agents::Agent;
use crate::refusal::Refusal;
use crate::xenstore::{Xenstore, XenstoreError};

/// The hidden command of `tsmc` by which one host asks the other: needs come in, obstacles and
/// warnings go out, a line each.
pub const CHECK: &str = "check-arrival";
/// What a line begins with that keeps nobody from migrating.
const WARNING: &str = "warning: ";

/// A guest of this host.
pub struct Guest {
    /// Its domain.
    pub domain: DomId,
    /// What it needs elsewhere.
    pub needs: Needs,
    config: Value,
}

/// What a guest needs of the host that it goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Its name must be free, or its own.
    pub name: String,
    uuid: String,
    memory_mib: u64,
    /// Bridges of the other dom0.
    bridges: Vec<String>,
    /// Files and devices of the other dom0.
    disks: Vec<String>,
    /// Files of the other dom0 from which it boots again. It can do without until then.
    boots_from: Vec<String>,
}

/// What the other host says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// What is in the way.
    pub obstacles: Vec<String>,
    /// What will be in the way of something else, later.
    pub warnings: Vec<String>,
}

impl Guest {
    /// The guest with this name or number, as libxl knows it.
    pub fn find(guest: &str) -> Result<Self, Refusal> {
        let output = Command::new("xl").args(["list", "-l", guest]).output()?;
        let known: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        known.as_ref().and_then(Self::of).ok_or_else(|| Refusal::NoGuest(guest.into()))
    }

    /// From what `xl list -l` prints.
    fn of(list: &Value) -> Option<Self> {
        let [only] = list.as_array()?.as_slice() else { return None };
        let domain = DomId(only["domid"].as_u64()?.try_into().ok()?);
        let config = only["config"].clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = |list: &str, wanted: fn(&Value) -> Option<&str>| -> Vec<String> {
            let devices = config[list].as_array().map(Vec::as_slice).unwrap_or_default();
            // Those that another domain serves are not dom0's to look for.
            let own = devices.iter().filter(|device| device["backend_domname"].is_null());
            own.filter_map(wanted).map(str::to_owned).collect()
        };
        let needs = Needs {
            name: text(&config["c_info"]["name"]),
            uuid: text(&config["c_info"]["uuid"]),
            memory_mib: config["b_info"]["max_memkb"].as_u64().unwrap_or_default().div_ceil(1024),
            bridges: all("nics", |nic| nic["bridge"].as_str()),
            disks: all("disks", |disk| disk["pdev_path"].as_str().filter(|path| path.starts_with('/'))),
            boots_from: ["kernel", "ramdisk"]
                .map(|file| text(&config["b_info"][file]))
                .into_iter()
                .filter(|path| path.starts_with('/'))
                .collect(),
        };
        (!needs.name.is_empty()).then_some(Self { domain, needs, config })
    }

    /// What keeps it here.
    pub fn obstacles(&self, store: &mut Xenstore) -> Result<Vec<String>, Refusal> {
        let mut obstacles = Vec::new();
        let name = &self.needs.name;
        let kind = self.config["c_info"]["type"].as_str().unwrap_or("unknown");
        if kind != "pvh" {
            obstacles.push(format!(
                "{name} is of type {kind}, and agents move guests of type pvh; 'xl migrate' moves it through dom0"
            ));
        }
        for (list, what) in [("pcidevs", "PCI"), ("usbdevs", "USB")] {
            if self.config[list].as_array().is_some_and(|devices| !devices.is_empty()) {
                obstacles
                    .push(format!("{name} has a passed-through {what} device, which cannot go with it: detach it"));
            }
        }
        obstacles.extend(helper().chain(agent_for(store, self.needs.memory_mib)?));
        Ok(obstacles)
    }
}

impl Needs {
    /// Asks the other host what is in the way there.
    pub fn ask(&self, ssh: &str, host: &str) -> Result<Said, Refusal> {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {ssh} {host} tsmc {CHECK}")]);
        let mut asking = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut input) = asking.stdin.take() {
            // Who does not read it says why below.
            let _ = writeln!(input, "{}", self.to_json());
        }
        let output = asking.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let reason = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no answer");
            return Err(Refusal::OtherHost { host: host.into(), reason: reason.replace(char::is_control, " ") });
        }
        let mut answer = Said::default();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let warning = line.strip_prefix(WARNING);
            let lines = if warning.is_some() { &mut answer.warnings } else { &mut answer.obstacles };
            lines.push(format!("{host}: {}", warning.unwrap_or(line).replace(char::is_control, " ")));
        }
        Ok(answer)
    }

    /// What is in the way on this host, to which it wants to come.
    pub fn missing(&self, store: &mut Xenstore) -> Result<Vec<String>, Refusal> {
        let mut missing = Vec::new();
        for name in [self.name.clone(), format!("{}--incoming", self.name)] {
            if let Some(domain) = self.stranger(store, &name)? {
                missing.push(format!(
                    "domain {domain} has the name {name} already: rename it ('xl rename') or destroy it"
                ));
            }
        }
        for bridge in self.bridges.iter().filter(|bridge| !is_file_name(bridge) || !exists("/sys/class/net", bridge)) {
            missing.push(format!("there is no bridge {bridge}"));
        }
        for disk in self.disks.iter().filter(|disk| !exists("/", disk)) {
            missing.push(format!("there is no disk {disk}"));
        }
        missing.extend(helper().chain(agent_for(store, self.memory_mib)?));
        for file in self.boots_from.iter().filter(|file| !exists("/", file)) {
            missing.push(format!("{WARNING}there is no {file}, and {} cannot reboot without it", self.name));
        }
        Ok(missing)
    }

    /// A domain that has this name and is not the guest itself.
    fn stranger(&self, store: &mut Xenstore, name: &str) -> Result<Option<String>, XenstoreError> {
        for domain in store.list("/local/domain")? {
            let home = format!("/local/domain/{domain}");
            if store.read(&format!("{home}/name"))?.as_deref() == Some(name)
                && store.read(&format!("{home}/vm"))? != Some(format!("/vm/{}", self.uuid))
            {
                return Ok(Some(domain));
            }
        }
        Ok(None)
    }

    fn to_json(&self) -> String {
        let Self { name, uuid, memory_mib, bridges, disks, boots_from } = self;
        json!({ "name": name, "uuid": uuid, "memory_mib": memory_mib, "bridges": bridges, "disks": disks, "boots_from": boots_from })
            .to_string()
    }

    /// What the other host has sent.
    pub fn from_json(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let all = |value: &Value| value.as_array()?.iter().map(text).collect::<Option<Vec<_>>>();
        Some(Self {
            name: text(&value["name"])?,
            uuid: text(&value["uuid"])?,
            memory_mib: value["memory_mib"].as_u64()?,
            bridges: all(&value["bridges"])?,
            disks: all(&value["disks"])?,
            // An older `tsmc` does not ask.
            boots_from: all(&value["boots_from"]).unwrap_or_default(),
        })
    }
}

/// This host has no save helper of ours.
fn helper() -> impl Iterator<Item = String> {
    (!Path::new(HELPER).exists()).then(|| format!("there is no save helper {HELPER}")).into_iter()
}

/// Why this host's agent cannot serve a guest of this size.
fn agent_for(store: &mut Xenstore, memory_mib: u64) -> Result<Option<String>, Refusal> {
    match Agent::find(store) {
        Ok(Agent { status, .. }) if status.largest_mib >= memory_mib => Ok(None),
        Ok(Agent { status, .. }) => Ok(Some(format!(
            "the migration agent has memory for guests of up to {} MiB: give it more ('memory' in its xl.cfg)",
            status.largest_mib
        ))),
        Err(refusal @ (Refusal::NoAgent | Refusal::AgentNotReady { .. } | Refusal::AgentRefuses { .. })) => {
            Ok(Some(refusal.to_string()))
        }
        Err(refusal) => Err(refusal),
    }
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != ".."
}

fn exists(folder: &str, name: &str) -> bool {
    Path::new(folder).join(name).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeStore;

    fn list() -> Value {
        json!([{ "domid": 5, "config": {
            "c_info": { "type": "pvh", "name": "web", "uuid": "0a0b" },
            "b_info": { "max_memkb": 262_144, "kernel": "/there/is/no-kernel" },
            "disks": [
                { "pdev_path": "/dev/null", "vdev": "xvda" },
                { "pdev_path": "/there/is/none", "vdev": "xvdb" },
                { "pdev_path": "nbd://elsewhere", "vdev": "xvdc" },
            ],
            "nics": [{ "bridge": "no-such-bridge" }, { "bridge": "of-another", "backend_domname": "netdom" }],
        } }])
    }

    #[test]
    fn what_a_guest_needs_is_read_from_libxl_and_arrives_whole() {
        let Guest { domain, needs, .. } = Guest::of(&list()).expect("a guest");
        assert_eq!((domain, needs.memory_mib), (DomId(5), 256));
        assert_eq!(needs.bridges, ["no-such-bridge"]);
        assert_eq!(needs.disks, ["/dev/null", "/there/is/none"]);
        assert_eq!(Needs::from_json(&needs.to_json()), Some(needs));
        assert_eq!(Needs::from_json("{\"name\": \"web\"}"), None);
        assert!(Guest::of(&json!([])).is_none());
    }

    #[test]
    fn each_thing_that_is_missing_is_named() {
        let (fake, mut store) = FakeStore::with_agent();
        let needs = Guest::of(&list()).expect("a guest").needs;
        fake.set(
            "/local/domain/1/data/tsmc/agent",
            "ready version=0.1.0 address=10.77.0.11 port=7077 memory_kib=1024 largest_mib=64 features=paging",
        );
        fake.set("/local/domain/7/name", "web");
        fake.set("/local/domain/7/vm", "/vm/somebody");
        let missing = needs.missing(&mut store).expect("an answer").join("; ");
        for words in [
            "domain 7 has the name web",
            "no bridge no-such-bridge",
            "no disk /there/is/none",
            "up to 64 MiB",
            "warning: there is no /there/is/no-kernel",
        ] {
            assert!(missing.contains(words), "{words}: {missing}");
        }
        // On its own host the name is its own.
        fake.set("/local/domain/7/vm", "/vm/0a0b");
        assert!(!needs.missing(&mut store).expect("an answer").join("; ").contains("has the name"));
    }

    #[test]
    fn a_guest_that_agents_cannot_move_is_told_why() {
        let (_fake, mut store) = FakeStore::with_agent();
        let mut list = list();
        list[0]["config"]["c_info"]["type"] = "pv".into();
        list[0]["config"]["pcidevs"] = json!([{ "dev": 1 }]);
        let obstacles = Guest::of(&list).expect("a guest").obstacles(&mut store).expect("an answer").join("; ");
        assert!(obstacles.contains("of type pv,") && obstacles.contains("a passed-through PCI device"), "{obstacles}");
    }

    #[test]
    fn another_host_that_does_not_answer_is_named_with_what_it_says() {
        let needs = Guest::of(&list()).expect("a guest").needs;
        let refusal = needs.ask("sh -c 'echo unreachable >&2; exit 1'", "b").expect_err("a refusal").to_string();
        assert_eq!(refusal, "cannot ask b whether the guest may come: unreachable");
        let said = needs.ask("sh -c 'echo no bridge; echo warning: no kernel; echo no disk'", "b").expect("an answer");
        assert_eq!(said.obstacles, ["b: no bridge", "b: no disk"]);
        assert_eq!(said.warnings, ["b: no kernel"]);
    }
}
