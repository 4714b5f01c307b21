// Previews a word's heat maps on the large pictures, and sets the strength of all maps. The page is whole without it.
for (const report of document.querySelectorAll(".dcam-report")) {
  const stages = report.querySelectorAll(".hero .stage");
  const caption = report.querySelector(".hero .shown");
  const preview = (link) => {
    const card = document.getElementById(link.hash.slice(1));
    card.querySelectorAll(".stage").forEach((source, number) => {
      stages[number].querySelectorAll(".heat, .peak").forEach((part) => part.remove());
      source.querySelectorAll(".heat, .peak").forEach((part) => stages[number].append(part.cloneNode()));
    });
    caption.textContent = "“" + card.querySelector("h3").textContent + "”";
    report.querySelectorAll("a.word").forEach((other) => other.classList.toggle("current", other.hash === link.hash));
  };
  for (const link of report.querySelectorAll("a.word")) {
    link.addEventListener("pointerenter", () => preview(link));
    link.addEventListener("focus", () => preview(link));
  }
  const strength = report.querySelector(".strength");
  strength.hidden = false;
  strength.addEventListener("input", (event) => report.style.setProperty("--strength", event.target.value / 100));
}
{% if moving %}
{% include "over_time.js" %}
{% endif %}
