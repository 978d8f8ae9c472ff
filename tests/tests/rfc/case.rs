//! A claim of an RFC as a table writes it: what the origin answers, what is asked, what must come of it.

use integration::{Answer, Seen};

/// What an origin answers to the requests of one case.
pub(crate) type Script = fn(&Seen) -> Answer;

/// Fields of a request or response.
pub(crate) type Fields = [(&'static str, &'static str)];

/// One claim, seen as answers to requests for one URL that nobody asked for before.
pub(crate) struct Case {
    /// The claim.
    pub(crate) name: &'static str,
    pub(crate) script: Script,
    pub(crate) steps: Vec<Step>,
}

/// One request and what must be seen of it.
pub(crate) struct Step {
    pub(crate) method: &'static str,
    /// What follows the case's own path.
    pub(crate) below: &'static str,
    pub(crate) fields: Vec<(&'static str, &'static str)>,
    /// Through another edge, which was not asked before; left out where there is no shield that both share.
    pub(crate) elsewhere: bool,
    /// Asked again until all holds: something goes on in the background.
    pub(crate) eventually: bool,
    pub(crate) wants: Vec<Want>,
}

/// What must hold after a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Want {
    /// The answer's status.
    Status(u16),
    /// Its whole body.
    Body(&'static str),
    /// All lines of a field, joined by a comma.
    Has(&'static str, &'static str),
    /// A field that must not be there.
    Lacks(&'static str),
    /// `Age`: so many seconds, and what has passed since the case began.
    Age(u64),
    /// How the edge's member of `Cache-Status` goes on behind its name.
    Edge(&'static str),
    /// How the shield's does, where there is one.
    Shield(&'static str),
    /// How that of the cache nearest the origin does: the shield's where there is one.
    Nearest(&'static str),
    /// How often the origin was asked for this URL so far.
    Asked(usize),
    /// A field of the origin's last request for this URL; empty for none.
    Told(&'static str, &'static str),
}

impl Case {
    /// A case without requests yet.
    pub(crate) fn new(name: &'static str, script: Script) -> Self {
        Self {
            name,
            script,
            steps: Vec::new(),
        }
    }

    /// A response that answers the second request too, in all tiers.
    pub(crate) fn stored(name: &'static str, script: Script) -> Self {
        Self::new(name, script)
            .get(&[])
            .edge("fwd=uri-miss")
            .asked(1)
            .get(&[])
            .edge("hit")
            .asked(1)
            .elsewhere()
            .shield("hit")
            .asked(1)
    }

    /// A response that answers its own request alone.
    pub(crate) fn passed(name: &'static str, script: Script) -> Self {
        Self::new(name, script)
            .get(&[])
            .edge("fwd=uri-miss")
            .asked(1)
            .get(&[])
            .asked(2)
            .get(&[])
            .asked(3)
    }

    /// A request for the case's URL.
    pub(crate) fn ask(mut self, method: &'static str, fields: &Fields) -> Self {
        self.steps.push(Step {
            method,
            below: "",
            fields: fields.to_vec(),
            elsewhere: false,
            eventually: false,
            wants: Vec::new(),
        });
        self
    }

    pub(crate) fn get(self, fields: &Fields) -> Self {
        self.ask("GET", fields)
    }

    pub(crate) fn head(self, fields: &Fields) -> Self {
        self.ask("HEAD", fields)
    }

    /// A GET through the other edge.
    pub(crate) fn elsewhere(self) -> Self {
        let mut case = self.get(&[]);
        case.step().elsewhere = true;
        case
    }

    /// The last request goes to another URL, with this behind the case's own.
    pub(crate) fn below(mut self, path: &'static str) -> Self {
        self.step().below = path;
        self
    }

    /// The last request is asked again until all that is wanted holds.
    pub(crate) fn eventually(mut self) -> Self {
        self.step().eventually = true;
        self
    }

    pub(crate) fn status(self, status: u16) -> Self {
        self.want(Want::Status(status))
    }

    pub(crate) fn body(self, body: &'static str) -> Self {
        self.want(Want::Body(body))
    }

    pub(crate) fn has(self, name: &'static str, value: &'static str) -> Self {
        self.want(Want::Has(name, value))
    }

    pub(crate) fn lacks(self, name: &'static str) -> Self {
        self.want(Want::Lacks(name))
    }

    pub(crate) fn age(self, seconds: u64) -> Self {
        self.want(Want::Age(seconds))
    }

    pub(crate) fn edge(self, said: &'static str) -> Self {
        self.want(Want::Edge(said))
    }

    pub(crate) fn shield(self, said: &'static str) -> Self {
        self.want(Want::Shield(said))
    }

    pub(crate) fn nearest(self, said: &'static str) -> Self {
        self.want(Want::Nearest(said))
    }

    pub(crate) fn asked(self, times: usize) -> Self {
        self.want(Want::Asked(times))
    }

    pub(crate) fn told(self, name: &'static str, value: &'static str) -> Self {
        self.want(Want::Told(name, value))
    }

    fn want(mut self, want: Want) -> Self {
        self.step().wants.push(want);
        self
    }

    fn step(&mut self) -> &mut Step {
        self.steps
            .last_mut()
            .expect("a request comes before what is wanted of it")
    }
}

/// 200 with the number of requests that came before this one as its body.
pub(crate) fn numbered(seen: &Seen) -> Answer {
    Answer::ok(seen.nth.to_string())
}

/// As [`numbered`], under this `Cache-Control`.
pub(crate) fn controlled(seen: &Seen, line: &str) -> Answer {
    numbered(seen).header("cache-control", line)
}

/// 304 where the request's `If-None-Match` is `"v"`, else 200 with "whole"; with `"v"` as its entity tag.
pub(crate) fn tagged(seen: &Seen) -> Answer {
    let answer = match seen.header("if-none-match") {
        "\"v\"" => Answer::status(304),
        _ => Answer::ok("whole"),
    };
    answer.header("etag", "\"v\"")
}

/// The date so many seconds ago.
pub(crate) fn ago(seconds: u64) -> String {
    let ago = std::time::Duration::from_secs(seconds);
    httpdate::fmt_http_date(std::time::SystemTime::now() - ago)
}
