"""What must hold, computed from three sides: the upstream's log, the clients'
outcomes, and what the gateways keep in Redis."""


class Judge:
    """over: what an estimate adds to body and asked tokens, by stream or
    not."""

    def __init__(self, report, upstream, load, over):
        self.report = report
        self.load = load
        self.over = over
        self.entries = upstream.entries()

    def of(self, user):
        return [e for e in self.entries if e["user"] == user]

    def estimate(self, outcome):
        return outcome.size + outcome.asked + self.over[outcome.stream]

    def within(self, user, limit):
        """P1: the tokens of answers that were sent to the end."""

        total = sum(e["tokens"] for e in self.of(user) if e.get("whole"))
        self.report.check("tokens answered / limit <= 1", total <= limit,
                          f"{total} / {limit} = {total / limit:.4f}")
        return total

    def exhausted(self, used, limit, user):
        """What is left is less than any request of this load needs."""

        largest = max(map(self.estimate, self.load.of(user)))
        self.report.check("the limit is used up within one estimate",
                          limit - largest <= used <= limit,
                          f"{used} of {limit}, estimates to {largest}")

    def live(self, user, most):
        """P3: at every instant, as the upstream saw it."""

        marks = []
        for e in self.of(user):
            marks.append((e["start"], 1))
            marks.append((e.get("end", float("inf")), -1))

        live = highest = 0
        for _, step in sorted(marks):
            live += step
            highest = max(highest, live)
        self.report.check("live requests <= concurrency", highest <= most,
                          f"{highest} of {most}")

    def charged(self, user, used):
        """P4, P5: what was used lies between what was answered, with the
        estimates of what was cut while the upstream worked (what a client left
        costs its prompt at least), and the same with the estimates of all
        whose fate nobody was told."""

        entries = {e["id"]: e for e in self.of(user)}
        least = most = 0
        unsure = 0

        for o in self.load.of(user):
            entry = entries.get(o.id)
            if o.whole:
                least += entry["tokens"]
                most += entry["tokens"]
            elif o.status in (200, 0, 502, 503) or o.left:
                unsure += 1
                most += self.estimate(o)
                if entry and o.left:
                    least += o.size + 128
                elif entry:
                    least += entry["tokens"] if entry.get("whole") \
                        else self.estimate(o)

        self.report.check("used = settled + estimates of the lost",
                          least <= used <= most,
                          f"{used}, from {least} to {most} ({unsure} unsure)"
                          if unsure else f"{used}, exactly {least}")

    def prompt(self, user, bound):
        """P7: what Redis delays; the upstream's own time is taken off, and
        what the clients themselves were late."""

        entries = {e["id"]: e for e in self.of(user)}
        worst, text, over = 0.0, "", 0
        bound += self.load.lag

        for o in self.load.of(user):
            entry = entries.get(o.id)
            if entry:
                waited = entry["start"] - o.start
            else:
                waited = o.end - o.start
            over += waited > bound
            if waited > worst:
                worst = waited
                text = f"{waited:.3f} s, status {o.status}"

        self.report.check(f"no request waits over {bound:.1f} s", not over,
                          text + (f", {over} over" if over else ""))

    def answers(self, user, allowed):
        """Every status is one of these; no client waits for nothing."""

        seen = {}
        for o in self.load.of(user):
            seen[o.status] = seen.get(o.status, 0) + 1
        odd = set(seen) - set(allowed)
        self.report.check("statuses are the expected ones", not odd,
                          " ".join(f"{k}: {v}" for k, v in sorted(
                              seen.items())))
        return seen

    def settled(self, user, seconds=0.0):
        """Answers sent to the end and not to a client: none without faults."""

        outcomes = {o.id: o for o in self.load.of(user)}
        lost = [e for e in self.of(user) if e.get("whole")
                and not (outcomes.get(e["id"]) and outcomes[e["id"]].whole)]
        self.report.equal("answers that did not reach their client",
                          len(lost), 0)
