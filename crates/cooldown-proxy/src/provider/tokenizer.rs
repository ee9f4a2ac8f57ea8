//! The tokenizers of OpenAI, for counting what others only estimate.

use std::fmt;
use std::sync::OnceLock;

use tiktoken_rs::CoreBPE;

/// How a text is cut into tokens, by the name that tiktoken and LiteLLM have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tokenizer {
    /// `o200k_base`, of GPT-4o and everything since.
    O200kBase,
    /// `cl100k_base`, of GPT-4, GPT-3.5 and their embeddings; near to Llama 3's.
    Cl100kBase,
}

static O200K_BASE: OnceLock<CoreBPE> = OnceLock::new();
static CL100K_BASE: OnceLock<CoreBPE> = OnceLock::new();

impl Tokenizer {
    /// Each with its name.
    pub const ALL: [(&'static str, Self); 2] = [("o200k_base", Self::O200kBase), ("cl100k_base", Self::Cl100kBase)];

    /// Loads its vocabulary, which takes tenths of a second and tens of megabytes. It stays as long as the process; to load
    /// it again costs nothing.
    pub fn load(self) {
        let vocabulary = match self {
            Self::O200kBase => tiktoken_rs::o200k_base,
            Self::Cl100kBase => tiktoken_rs::cl100k_base,
        };
        // What is built into the program can be read.
        self.place().get_or_init(|| vocabulary().expect("the vocabulary is whole"));
    }

    /// Whether it can count.
    pub fn is_loaded(self) -> bool {
        self.place().get().is_some()
    }

    /// What counts; `None` until it is loaded.
    pub(super) fn vocabulary(self) -> Option<&'static CoreBPE> {
        self.place().get()
    }

    fn place(self) -> &'static OnceLock<CoreBPE> {
        match self {
            Self::O200kBase => &O200K_BASE,
            Self::Cl100kBase => &CL100K_BASE,
        }
    }
}

impl fmt::Display for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, tokenizer)| tokenizer == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}
