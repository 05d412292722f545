//! Reads the policy as it is compiled, and holds all that dom0 may do against what it should.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// What lets a domain run. No shell may: only a domain under its own label is a guest.
const RUN: [&str; 2] = ["domain unpause", "domain resume"];

/// What dom0 needs to look after a private domain, to serve its devices, and to end it.
const MANAGE: &[&str] = &[
    "domain getdomaininfo",
    "domain getvcpuinfo",
    "domain getaffinity",
    "domain setaffinity",
    "domain getaddrsize",
    "domain getscheduler",
    "domain pause",
    "domain trigger",
    "domain shutdown",
    "domain destroy",
    "domain setdomainmaxmem",
    "domain getpodtarget",
    "domain setpodtarget",
    "domain getpagingmempool",
    "domain setpagingmempool",
    "domain2 set_vnumainfo",
    "domain2 relabelto",
    "grant map_read",
    "grant map_write",
    "grant copy",
    "grant unmap",
    "argo send",
    "argo register_single_source",
];

/// The domains that dom0 must not reach into, and what it may do to each beyond [`MANAGE`].
const PRIVATE: [(&str, &[&str]); 3] = [
    ("nomigrate_t", &["domain2 get_vnumainfo", RUN[0], RUN[1]]),
    ("nomigrate_t_inbound", &["domain2 setscheduler", "domain2 relabelfrom"]),
    ("tsmc_agent_t", &["resource add", "resource remove", RUN[0], RUN[1]]),
];

/// All that dom0 may do to a guest that has left.
const AWAY: [&str; 5] =
    ["domain getdomaininfo", "domain pause", "grant unmap", "argo send", "argo register_single_source"];

/// What dom0 does to every shell: HVM parameters are neither memory nor registers, and the agent sets those that matter anew.
const SHELL: [&str; 2] = ["hvm setparam", "hvm altp2mhvm"];

/// What a locked host has taken from dom0.
const LOCKED: [(&str, &str); 15] = [
    ("security_t", "security load_policy"),
    ("security_t", "security setenforce"),
    ("security_t", "security setbool"),
    ("security_t", "security setsecparam"),
    ("security_t", "security add_ocontext"),
    ("security_t", "security del_ocontext"),
    ("xen_t", "xen kexec"),
    ("xen_t", "xen debug"),
    ("xen_t", "xen tbufcontrol"),
    ("xen_t", "xen privprofile"),
    ("xen_t", "xen nonprivprofile"),
    ("xen_t", "xen microcode"),
    ("xen_t", "xen2 livepatch_op"),
    ("xen_t", "xen2 pmu_ctrl"),
    ("dom0_t", "domain setdebugging"),
];

/// Our policy, built once for all tests.
static POLICY: LazyLock<Policy> = LazyLock::new(Policy::build);

/// One rule of the policy.
struct Rule {
    /// The conditions that it stands under, as they are written.
    conditions: Vec<String>,
    sources: Vec<String>,
    targets: Vec<String>,
    /// Class and permission.
    rights: Vec<String>,
}

/// The rules of a policy, and the attributes of its types.
struct Policy {
    rules: Vec<Rule>,
    attributes: BTreeMap<String, Vec<String>>,
}

impl Policy {
    /// Our policy with the testbed's network driver domain, built as an operator builds it.
    fn build() -> Self {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let output = std::env::temp_dir().join(format!("tsmc-policy-{}", std::process::id()));
        let mut build = Command::new("sh");
        build.arg(workspace.join("toolstack/flask/build.sh")).arg(workspace.join("target/testbed/xen-source"));
        build.arg(&output).arg(workspace.join("tests-qemu/netdom/netdom.te"));
        assert!(build.status().expect("a shell").success(), "the policy does not build");
        let conf = output.with_extension("conf");
        let text = std::fs::read_to_string(&conf).expect("the policy's text");
        for file in [output, conf] {
            std::fs::remove_file(file).expect("it was written");
        }
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        let mut tokens = tokens(text).into_iter().peekable();
        let mut policy = Self { rules: Vec::new(), attributes: BTreeMap::new() };
        let mut conditions = Vec::new();
        let mut last = String::new();
        while let Some(token) = tokens.next() {
            match token.as_str() {
                "if" => {
                    let condition: String = tokens.by_ref().take_while(|token| token != "{").collect();
                    conditions.push(condition);
                }
                "else" => {
                    tokens.next();
                    conditions.push(format!("else{last}"));
                }
                "}" if !conditions.is_empty() => last = conditions.pop().unwrap_or_default(),
                "type" => {
                    let words: Vec<String> =
                        tokens.by_ref().take_while(|token| token != ";").filter(|token| token != ",").collect();
                    if let Some((name, attributes)) = words.split_first() {
                        policy.attributes.insert(name.clone(), attributes.to_vec());
                    }
                }
                kind @ ("allow" | "auditallow" | "dontaudit") => {
                    let (sources, targets) = (set(&mut tokens), set(&mut tokens));
                    tokens.next_if(|token| token == ":");
                    let (classes, permissions) = (set(&mut tokens), set(&mut tokens));
                    if kind == "allow" {
                        let pair = |class| permissions.iter().map(move |permission| format!("{class} {permission}"));
                        let rights = classes.iter().flat_map(pair).collect();
                        policy.rules.push(Rule { conditions: conditions.clone(), sources, targets, rights });
                    }
                }
                _ => {}
            }
        }
        policy
    }

    fn names(&self, set: &[String], kind: &str) -> bool {
        let attributes = self.attributes.get(kind).map(Vec::as_slice).unwrap_or_default();
        set.iter().any(|name| name == kind || attributes.contains(name))
    }

    /// What `source` may do to `target` under rules that `counts`.
    fn rights(&self, source: &str, target: &str, counts: impl Fn(&Rule) -> bool) -> BTreeSet<&str> {
        self.rules
            .iter()
            .filter(|rule| self.names(&rule.sources, source) && self.names(&rule.targets, target) && counts(rule))
            .flat_map(|rule| rule.rights.iter().map(String::as_str))
            .collect()
    }
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let line = line.split('#').next().unwrap_or_default();
        let mut word = String::new();
        for character in line.chars().chain([' ']) {
            if character.is_alphanumeric() || "_.-$".contains(character) {
                word.push(character);
                continue;
            }
            if !word.is_empty() {
                tokens.push(std::mem::take(&mut word));
            }
            if !character.is_whitespace() {
                tokens.push(character.to_string());
            }
        }
    }
    tokens
}

/// One name, or several in braces.
fn set(tokens: &mut impl Iterator<Item = String>) -> Vec<String> {
    match tokens.next() {
        Some(token) if token == "{" => tokens.take_while(|token| token != "}").collect(),
        token => token.into_iter().collect(),
    }
}

#[test]
fn dom0_has_no_right_on_private_domains_but_to_manage_and_serve_them() {
    let policy = &*POLICY;
    for (kind, more) in PRIVATE {
        let allowed: BTreeSet<&str> = MANAGE.iter().chain(more).copied().collect();
        // Whatever the booleans say.
        let rights = policy.rights("dom0_t", kind, |_| true);
        assert!(rights.contains("domain destroy"), "the policy was not understood: dom0 may not destroy {kind}");
        let surplus: Vec<_> = rights.difference(&allowed).collect();
        assert!(surplus.is_empty(), "dom0 may {surplus:?} on {kind}");
    }
    let away = policy.rights("dom0_t", "tsmc_away_t", |_| true);
    let surplus: Vec<_> = away.iter().filter(|right| !AWAY.contains(right)).collect();
    assert!(surplus.is_empty(), "dom0 may {surplus:?} on tsmc_away_t");
}

#[test]
fn dom0_can_end_every_domain_that_it_can_create() {
    let policy = &*POLICY;
    let mut creatable = 0;
    for kind in policy.attributes.keys() {
        let rights = policy.rights("dom0_t", kind, |_| true);
        if rights.contains("domain create") {
            creatable += 1;
            let missing: Vec<_> =
                ["domain pause", "domain destroy"].into_iter().filter(|right| !rights.contains(right)).collect();
            assert!(missing.is_empty(), "dom0 creates {kind}, and may not {missing:?}");
        }
    }
    assert!(creatable > 4, "the policy was not understood");
}

#[test]
fn each_right_that_undoes_the_policy_ends_with_the_lockdown() {
    let policy = &*POLICY;
    for (target, right) in LOCKED {
        assert!(policy.rights("dom0_t", target, |_| true).contains(right), "dom0 never may {right}");
        let locked = |rule: &Rule| !rule.conditions.iter().any(|condition| condition == "(!tsmc_locked)");
        assert!(!policy.rights("dom0_t", target, locked).contains(right), "dom0 may {right} when locked");
    }
}

#[test]
fn options_of_the_lockdown_end_building() {
    let policy = &*POLICY;
    for (kind, boolean) in
        [("tsmc_agent_t_building", "(!tsmc_agent_sealed)"), ("nomigrate_t_building", "(!tsmc_arrivals_only)")]
    {
        let memory = |rights: &BTreeSet<&str>| {
            rights
                .iter()
                .filter(|right| !SHELL.contains(right))
                .any(|right| right.starts_with("mmu ") || right.starts_with("hvm ") || right.ends_with("resource_map"))
        };
        assert!(memory(&policy.rights("dom0_t", kind, |_| true)), "dom0 cannot build {kind}");
        let closed = |rule: &Rule| !rule.conditions.iter().any(|condition| condition == boolean);
        let rights = policy.rights("dom0_t", kind, closed);
        assert!(!memory(&rights), "dom0 may fill {kind}: {rights:?}");
    }
    let sealed = |rule: &Rule| !rule.conditions.iter().any(|condition| condition == "(!tsmc_agent_sealed)");
    for kind in ["tsmc_agent_t", "tsmc_agent_t_building"] {
        assert!(!policy.rights("dom0_t", kind, sealed).contains("domain create"), "dom0 may create {kind}");
    }
}

#[test]
fn a_sealed_card_is_nobodys_but_its_owners() {
    let policy = &*POLICY;
    let on_card = |counts: &dyn Fn(&Rule) -> bool| -> Vec<&str> {
        let rights = policy.rights("dom0_t", "tsmc_nic_t", counts);
        rights.into_iter().filter_map(|right| right.strip_prefix("resource ")).collect()
    };
    let open = on_card(&|_| true);
    for right in ["setup", "use_iommu", "add_device", "add_iomem", "add_irq"] {
        assert!(open.contains(&right), "dom0 cannot give the card away: {open:?}");
    }
    // It may end what the card's owner has, and no more.
    let sealed = |rule: &Rule| !rule.conditions.iter().any(|condition| condition == "(!tsmc_nic_sealed)");
    assert_eq!(on_card(&sealed), ["remove_device", "remove_iomem", "remove_irq"]);
    // The agent keeps it.
    assert!(policy.rights("tsmc_agent_t", "tsmc_nic_t", sealed).contains("resource use_iommu"));
}

#[test]
fn no_label_leads_back_to_one_that_dom0_can_read() {
    let policy = &*POLICY;
    for (kind, _) in PRIVATE {
        for rule in policy.rules.iter().filter(|rule| rule.rights.iter().any(|right| right == "domain transition")) {
            if policy.names(&rule.sources, kind) {
                let known = ["nomigrate_t", "tsmc_away_t"];
                let strange: Vec<_> = rule.targets.iter().filter(|target| !known.contains(&target.as_str())).collect();
                assert!(strange.is_empty(), "{kind} may become {strange:?}");
            }
        }
    }
}

#[test]
fn a_network_domain_reaches_only_what_the_agent_grants() {
    let policy = &*POLICY;
    let granted = ["grant copy", "grant map_read", "grant map_write", "grant unmap"];
    let reach = |target: &str| -> Vec<&str> {
        let classes = ["grant ", "mmu ", "hvm ", "shadow ", "domain ", "domain2 ", "security ", "resource "];
        let rights = policy.rights("netdom_t", target, |_| true);
        rights.into_iter().filter(|right| classes.iter().any(|class| right.starts_with(class))).collect()
    };
    assert_eq!(reach("tsmc_agent_t"), granted);
    assert_eq!(reach("tsmc_nic_t"), ["resource use_iommu"]);
    let own = ["netdom_t", "netdom_t_self", "tsmc_agent_t", "tsmc_nic_t"];
    for target in policy.attributes.keys().filter(|name| !own.contains(&name.as_str())) {
        assert!(reach(target).is_empty(), "netdom_t may {:?} on {target}", reach(target));
    }
    // dom0 makes it, and does not look into it once it runs.
    let memory: Vec<_> =
        policy.rights("dom0_t", "netdom_t", |_| true).into_iter().filter(|r| r.starts_with("mmu ")).collect();
    assert!(memory.is_empty(), "dom0 may {memory:?} on netdom_t");
}
