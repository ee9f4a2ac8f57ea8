//! Prompts of several kinds, made of texts that are at hand, and what a provider charges for them.

use serde_json::{Value, json};
use tiktoken_rs::CoreBPE;

const ENGLISH: [&str; 3] = [
    include_str!("../../../docs/life-of-a-request.md"),
    include_str!("../../../docs/configuration.md"),
    include_str!("../../../README.md"),
];
const CODE: [&str; 3] = [
    include_str!("../../../crates/cooldown-pacer/src/pacer.rs"),
    include_str!("../../../crates/cooldown-proxy/src/provider/peek.rs"),
    include_str!("../../../crates/cooldown-proxy/tests/sdk/openai_sdk.py"),
];
const GERMAN: &str = "Die Anlage wird im Frühjahr in Betrieb genommen, sofern die Genehmigungsbehörde bis dahin keine Einwände erhebt. \
    Bitte fassen Sie das folgende Gesprächsprotokoll in höchstens fünf Sätzen zusammen und nennen Sie alle offenen Punkte. \
    Wegen der außergewöhnlichen Niederschlagsmengen mussten mehrere Straßenbahnlinien vorübergehend umgeleitet werden. \
    Der Geschäftsführer erklärte, man werde die Lieferverpflichtungen gegenüber den Kunden selbstverständlich erfüllen. ";
const CHINESE: &str = "请把下面的会议记录总结成五句话，并列出所有尚未解决的问题。由于今年春天降雨量异常，几条有轨电车线路不得不临时改道。\
    公司总经理表示，他们当然会履行对客户的供货义务，但是新工厂的建设进度可能会受到影响。\
    人工智能正在改变软件开发的方式：许多工程师每天都要向语言模型提出上百个问题，而这些请求往往受到速率限制。";
const LOG: &str = "2026-11-23T02:57:37.118204Z  INFO request{id=7f3a9c01}: upstream answered status=429 retry_after=17 bytes=1182\n\
    {\"level\":\"warn\",\"ts\":1795402657.12,\"caller\":\"pool/conn.go:214\",\"msg\":\"retrying\",\"attempt\":3,\"addr\":\"10.12.0.7:5432\"}\n";

/// What kind of requests a model gets.
#[derive(Clone, Copy)]
pub(super) enum Workload {
    /// Short questions in English.
    English,
    /// Long conversations with tools, code and logs.
    Agent,
    /// Texts in one of three languages.
    Languages,
    /// All of these, and attachments in base64.
    Everything,
}

/// Tokens that a provider charges for a prompt.
#[derive(Clone, Copy)]
pub(super) struct Charged(pub(super) u64);

/// The messages and tools of a request.
pub(super) struct Prompt {
    messages: Vec<String>,
    tools: Vec<Value>,
}

/// Numbers that look random, the same ones each time (xorshift).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }

    /// From `least` to `most`, as many small as large ones.
    fn size(&mut self, least: f64, most: f64) -> usize {
        let share = self.below(1_000_000) as f64 / 1e6;
        (least * (most / least).powf(share)) as usize
    }
}

impl Workload {
    pub(super) const ALL: [Self; 4] = [Self::English, Self::Agent, Self::Languages, Self::Everything];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::English => "English questions",
            Self::Agent => "coding agent",
            Self::Languages => "English/German/Chinese",
            Self::Everything => "everything",
        }
    }
}

impl Prompt {
    pub(super) fn make(workload: Workload, random: &mut Random) -> Self {
        let mut prompt = Self { messages: Vec::new(), tools: Vec::new() };
        match workload {
            Workload::English => prompt.say(1, english, (100.0, 4_000.0), random),
            Workload::Agent => {
                let turns = random.size(1.0, 60.0);
                prompt.say(1, english, (4_000.0, 12_000.0), random);
                prompt.say(turns, agent, (100.0, 8_000.0), random);
                prompt.tools = tools(2 + random.below(12));
            }
            Workload::Languages => {
                let language = [english, german, chinese][random.below(3)];
                let turns = 1 + random.below(6);
                prompt.say(turns, language, (100.0, 10_000.0), random);
            }
            Workload::Everything => {
                let kind = [english, german, chinese, agent, base64][random.below(5)];
                let turns = random.size(1.0, 20.0);
                prompt.say(turns, kind, (50.0, 20_000.0), random);
                prompt.tools = tools(random.below(4));
            }
        }
        prompt
    }

    /// One of all kinds of text, of about this many bytes.
    pub(super) fn of_length(length: usize, random: &mut Random) -> Self {
        let kinds = [english, german, agent, chinese, agent];
        let messages = kinds.iter().map(|kind| kind(length / kinds.len(), random)).collect();
        Self { messages, tools: Vec::new() }
    }

    fn say(
        &mut self,
        turns: usize,
        kind: fn(usize, &mut Random) -> String,
        (least, most): (f64, f64),
        random: &mut Random,
    ) {
        for _ in 0..turns {
            let size = random.size(least, most);
            self.messages.push(kind(size, random));
        }
    }

    /// The request.
    pub(super) fn body(&self) -> String {
        let roles = ["user", "assistant"].iter().cycle();
        let messages = self.messages.iter().zip(roles).map(|(text, role)| json!({"role": role, "content": text}));
        let mut body = json!({"model": "m", "messages": messages.collect::<Vec<_>>()});
        if !self.tools.is_empty() {
            body["tools"] = self.tools.clone().into();
        }
        body.to_string()
    }

    /// As OpenAI's cookbook counts them: three tokens and the role for each message, three for the answer's beginning, and
    /// for tools what their definitions become.
    pub(super) fn charged(&self, vocabulary: &CoreBPE) -> Charged {
        let count = |text: &str| text.split_inclusive('\n').map(|line| vocabulary.count_ordinary(line)).sum::<usize>();
        let messages: usize = self.messages.iter().map(|text| 4 + count(text)).sum();
        let tools: usize = self.tools.iter().map(|tool| defined(&tool["function"], &count)).sum();
        let end = if self.tools.is_empty() { 3 } else { 3 + 12 };
        Charged((messages + tools + end) as u64)
    }
}

fn defined(function: &Value, count: &impl Fn(&str) -> usize) -> usize {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut tokens = 7 + count(&format!("{}:{}", text(&function["name"]), text(&function["description"])));
    let properties = function["parameters"]["properties"].as_object();
    tokens += if properties.is_some_and(|properties| !properties.is_empty()) { 3 } else { 0 };
    for (name, property) in properties.into_iter().flatten() {
        tokens += 3 + count(&format!("{name}:{}:{}", text(&property["type"]), text(&property["description"])));
        for item in property["enum"].as_array().into_iter().flatten() {
            tokens += 3 + count(&text(item));
        }
    }
    tokens
}

/// So many bytes of a text, from any place in it.
fn cut(text: &str, size: usize, random: &mut Random) -> String {
    let mut start = random.below(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut cut = String::new();
    for piece in std::iter::once(&text[start..]).chain(std::iter::repeat(text)) {
        let mut end = piece.len().min(size.saturating_sub(cut.len()).max(1));
        while !piece.is_char_boundary(end) {
            end += 1;
        }
        cut.push_str(&piece[..end]);
        if cut.len() >= size {
            break;
        }
    }
    cut
}

fn english(size: usize, random: &mut Random) -> String {
    cut(ENGLISH[random.below(ENGLISH.len())], size, random)
}

fn german(size: usize, random: &mut Random) -> String {
    cut(GERMAN, size, random)
}

fn chinese(size: usize, random: &mut Random) -> String {
    cut(CHINESE, size, random)
}

/// What passes between an agent and its model.
fn agent(size: usize, random: &mut Random) -> String {
    match random.below(5) {
        0 => english(size, random),
        1 => cut(LOG, size, random),
        kind => cut(CODE[kind - 2], size, random),
    }
}

fn base64(size: usize, random: &mut Random) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    (0..size).map(|_| char::from(LETTERS[random.below(LETTERS.len())])).collect()
}

/// Definitions of tools as agents send them.
fn tools(count: usize) -> Vec<Value> {
    let known = [
        ("read_file", "Reads a file from the working folder. Lines are numbered; long files come in parts.", "path"),
        ("run_command", "Runs a command in a shell and returns what it wrote, with its exit code.", "command"),
        (
            "search_text",
            "Searches all files below a folder for a regular expression and lists the lines found.",
            "pattern",
        ),
        ("get_weather", "Current weather at a place, with temperature, wind and the chance of rain.", "location"),
    ];
    let tool = |(name, description, argument): (&str, &str, &str)| {
        json!({"type": "function", "function": {
            "name": name,
            "description": description,
            "strict": true,
            "parameters": {
                "type": "object",
                "properties": {
                    argument: {"type": "string", "description": format!("The {argument} that is meant.")},
                    "limit": {"type": "integer", "description": "The most results that are returned."},
                    "format": {"type": "string", "description": "How results are written.", "enum": ["text", "json", "table"]}
                },
                "required": [argument, "limit", "format"],
                "additionalProperties": false
            }
        }})
    };
    known.into_iter().cycle().take(count).map(tool).collect()
}
