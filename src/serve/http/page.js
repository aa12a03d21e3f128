// Follows the output of a job that has not ended. Without this script the page shows what there was when it was loaded.
(async () => {
  const log = document.getElementById("log");
  let { next, status } = log.dataset;
  const toEnd = () => { log.scrollTop = log.scrollHeight; };
  toEnd();
  let active = log.dataset.active === "true";
  while (active) {
    try {
      const answer = await fetch(`${location.pathname}/news?from=${next}&status=${status}`);
      if (answer.status === 401 || answer.status === 404) { location.reload(); return; }
      if (!answer.ok) throw new Error(answer.statusText);
      const news = await answer.json();
      const follows = log.scrollTop + log.clientHeight >= log.scrollHeight - 40;
      log.append(news.text);
      if (follows) toEnd();
      next = news.next;
      // The whole page is loaded again when the job's state is another one, and no sooner: who reads is not disturbed.
      if (news.status !== status) { location.reload(); return; }
      active = news.active;
    } catch {
      await new Promise((again) => setTimeout(again, 2000));
    }
  }
})();
