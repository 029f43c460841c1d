package dev.loran.peft.seo;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.GZIPInputStream;
import java.util.zip.GZIPOutputStream;

/// Creates the rows of the tasks `search-intent` and `instructions`. A plain JDK runs this file, after
/// [MakeSeoPages], whose rows the instructions are about:
///
/// ```
/// java peft/src/test/java/dev/loran/peft/seo/MakeSeoQueries.java peft/src/main/resources/dev/loran/peft/seo
/// ```
///
/// **Search intent is synthetic**: queries are templates written for Loran, filled with products, services, places and
/// invented brands. Every fourth template of each intent is held out whole, and so is every fourth product, service,
/// place and brand: no held-out query shares its template or its subject with one to train on.
///
/// **Instructions** are templates, too, one after the other about a row of another task, whose target is the response.
/// Every fourth phrasing is held out whole, with rows that are held out in the other task.
final class MakeSeoQueries {
    private static final int QUERIES = 300;
    private static final int INSTRUCTIONS = 180;
    private static final long SEED = 15;

    private static final Map<String, List<String>> WORDS = new LinkedHashMap<>();

    private static void words(String name, String list) {
        WORDS.put(name, List.of(list.split(", ")));
    }

    static {
        words(
                "product",
                "running shoes, hiking boots, office chair, standing desk, coffee machine, espresso grinder, winter "
                        + "jacket, rain coat, yoga mat, road bike, electric scooter, mountain bike, tent, sleeping bag, "
                        + "water bottle, frying pan, chef's knife, blender, toaster, vacuum cleaner, robot mower, "
                        + "garden hose, drill, circular saw, laptop, tablet, phone case, noise cancelling headphones, "
                        + "bluetooth speaker, monitor, mechanical keyboard, printer, router, smart watch, camera, "
                        + "tripod, backpack, suitcase, wallet, sunglasses, wedding dress, baby stroller, car seat, "
                        + "crib, dog bed, cat tree, aquarium, guitar, piano, drum kit, bookshelf, sofa, mattress, "
                        + "desk lamp, curtains, carpet, wall paint, solar panel, heat pump, air fryer");
        words(
                "service",
                "dentist, plumber, electrician, lawyer, tax adviser, hair salon, physiotherapist, car repair shop, "
                        + "driving school, language school, dog groomer, veterinarian, moving company, cleaning "
                        + "service, wedding photographer, personal trainer, piano teacher, locksmith, roofer, "
                        + "architect, notary, optician, pharmacy, florist");
        words(
                "place",
                "berlin, hamburg, munich, vienna, zurich, paris, lyon, london, leeds, dublin, oslo, bergen, "
                        + "stockholm, copenhagen, madrid, seville, lisbon, porto, rome, milan, prague, warsaw, "
                        + "boston, seattle, toronto, sydney");
        words(
                "brand",
                "velora, nordhaus, brimtek, casalino, oakfern, zentro, lumivo, farawell, kettleby, pixmere, trailox, "
                        + "homewise, gardia, solmate, wavelin, bookaro, petlane, fitsmith, cartovia, mediq, aldenby, "
                        + "brunvik, quillon, stellwerk, mornay, ottero, pinfield, ruvano, savonne, tavero, ulmgard, "
                        + "vinterra, westhaven, yardly, zephyrix, corvana");
        words(
                "problem",
                "a leaking tap, back pain, a flat tyre, mould on walls, a slow laptop, dry skin, weeds in the lawn, "
                        + "a squeaking door, a clogged drain, limescale, a scratched floor, jet lag, sore feet, a "
                        + "broken zip, rust on a bike chain, condensation on windows");
        words(
                "topic",
                "compound interest, photosynthesis, inflation, a mortgage, search engine optimisation, a heat pump, "
                        + "machine learning, sourdough, a vpn, intermittent fasting, double entry bookkeeping, an "
                        + "annuity, soil acidity, tyre pressure, a patent, a meta description");
        words("page", "login, customer service, opening hours, returns, careers, newsletter, app, order status");
        words("price", "20, 50, 80, 100, 150, 200, 300, 500");
        words("people", "beginners, children, seniors, small flats, students, families, travellers, wide feet");
    }

    private static final Map<String, List<String>> QUERY = new LinkedHashMap<>();

    static {
        QUERY.put(
                "informational",
                List.of(
                        "how does a {product} work",
                        "how to clean a {product}",
                        "what is {topic}",
                        "why is my {product} making noise",
                        "how to fix {problem}",
                        "{topic} explained simply",
                        "how long does a {product} last",
                        "history of the {product}",
                        "how often should you see a {service}",
                        "causes of {problem}",
                        "what does a {service} do",
                        "home remedies for {problem}",
                        "{product} size chart meaning",
                        "is {topic} worth understanding",
                        "who invented the {product}",
                        "difference between {topic} and {topic}",
                        "how to store a {product} in winter",
                        "when to replace a {product}",
                        "examples of {topic}",
                        "what materials is a {product} made of",
                        "how to become a {service}",
                        "tips against {problem}",
                        "{product} maintenance guide",
                        "can {problem} be dangerous",
                        "what to do about {problem} at night",
                        "how to measure for a {product}",
                        "meaning of {topic}",
                        "things to know about {place}"));
        QUERY.put(
                "navigational",
                List.of(
                        "{brand} {page}",
                        "{brand}.com",
                        "www {brand} com {page}",
                        "{brand} official website",
                        "{brand} {place} {page}",
                        "go to {brand} {page}",
                        "{brand} contact number",
                        "my {brand} account",
                        "{brand} homepage {place}",
                        "sign in {brand}",
                        "{brand} store {place} address",
                        "{brand} support page",
                        "{brand} facebook",
                        "open {brand} {page}",
                        "{brand} blog",
                        "{page} {brand}",
                        "{brand} online portal",
                        "{brand} head office {place}",
                        "{brand} instagram",
                        "{brand} imprint",
                        "{brand} web site {page}",
                        "where is {brand} in {place}",
                        "{brand} password reset",
                        "{brand} download {page}",
                        "{place} tourist board website",
                        "{place} city council {page}",
                        "{brand} faq",
                        "{brand} terms and conditions"));
        QUERY.put(
                "transactional",
                List.of(
                        "buy {product} online",
                        "{product} free shipping",
                        "order {product} next day delivery",
                        "cheap {product} for sale",
                        "book a {service} in {place}",
                        "{product} discount code",
                        "{brand} {product} buy now",
                        "{service} appointment {place} today",
                        "{product} under {price} euros in stock",
                        "coupon for {brand}",
                        "rent a {product} in {place}",
                        "{product} clearance sale",
                        "hire a {service} {place}",
                        "used {product} {place} for sale",
                        "{product} pay by instalments",
                        "get a quote from a {service}",
                        "{product} wholesale price",
                        "subscribe to {brand}",
                        "where to buy a {product} in {place}",
                        "{brand} voucher {price}",
                        "make an appointment with a {service}",
                        "{product} bundle deal",
                        "pre order {brand} {product}",
                        "download {brand} app trial",
                        "{place} hotel booking tonight",
                        "flights to {place} cheap tickets",
                        "{product} same day pickup {place}",
                        "{product} shop {place}"));
        QUERY.put(
                "commercial",
                List.of(
                        "best {product} for {people}",
                        "{brand} vs {brand}",
                        "{product} reviews",
                        "top 10 {product} this year",
                        "is the {brand} {product} any good",
                        "{product} comparison test",
                        "best {service} in {place} ratings",
                        "{brand} {product} review",
                        "alternatives to {brand}",
                        "which {product} should i get",
                        "{product} for {people} test winner",
                        "most reliable {product} brands",
                        "{brand} or {brand} {product}",
                        "{product} pros and cons",
                        "{service} {place} reviews",
                        "best value {product} under {price}",
                        "{product} buying guide",
                        "what {product} do experts recommend",
                        "{brand} {product} experiences",
                        "recommended {service} for {people}",
                        "compare {product} prices and features",
                        "quietest {product} tested",
                        "{brand} complaints and ratings",
                        "{product} for {people} which one",
                        "{brand} {product} unboxing opinion",
                        "top rated {service} near {place}",
                        "lightest {product} ranking",
                        "are {brand} products worth the money"));
    }

    private MakeSeoQueries() {}

    public static void main(String[] args) throws IOException {
        if (args.length != 1) {
            System.err.println("usage: java MakeSeoQueries.java FOLDER");
            System.exit(2);
        }
        Path folder = Path.of(args[0]);
        for (boolean heldOut : new boolean[] {false, true}) {
            write(folder, "search-intent", heldOut, queries(heldOut));
        }
        for (boolean heldOut : new boolean[] {false, true}) {
            write(folder, "instructions", heldOut, instructions(folder, heldOut));
        }
    }

    /// Every fourth of a list, or the others.
    private static <T> List<T> part(List<T> all, boolean heldOut) {
        List<T> part = new ArrayList<>();
        for (int i = 0; i < all.size(); i++) {
            if ((i % 4 == 3) == heldOut) {
                part.add(all.get(i));
            }
        }
        return part;
    }

    private static void write(Path folder, String task, boolean heldOut, List<String> lines) throws IOException {
        Path file = folder.resolve(file(task, heldOut));
        try (OutputStream out = new GZIPOutputStream(Files.newOutputStream(file))) {
            out.write((String.join("\n", lines) + "\n").getBytes(StandardCharsets.UTF_8));
        }
        System.out.printf("%s: %,d rows%n", file, lines.size());
    }

    private static String file(String task, boolean heldOut) {
        return task + (heldOut ? "-held-out" : "-train") + ".jsonl.gz";
    }

    // ---- search intent

    private static final Pattern SLOT = Pattern.compile("\\{(\\w+)}");

    private static List<String> queries(boolean heldOut) {
        Random random = new Random(heldOut ? SEED + 1 : SEED);
        Set<String> seen = new LinkedHashSet<>();
        List<String> lines = new ArrayList<>();
        int wanted = heldOut ? QUERIES / 5 : QUERIES;
        QUERY.forEach((intent, templates) -> {
            List<String> own = part(templates, heldOut);
            int found = 0;
            for (int i = 0; found < wanted; i++) {
                String query = filled(own.get(i % own.size()), heldOut, random);
                if (seen.add(query)) {
                    lines.add("{\"text\":\"" + query + "\",\"label\":\"" + intent + "\"}");
                    found++;
                } else if (i > 100 * wanted) {
                    throw new IllegalStateException(intent + ": only " + found + " queries");
                }
            }
        });
        Collections.shuffle(lines, random);
        return lines;
    }

    private static String filled(String template, boolean heldOut, Random random) {
        return SLOT.matcher(template).replaceAll(slot -> {
            List<String> words = part(WORDS.getOrDefault(slot.group(1), List.of()), heldOut);
            return Matcher.quoteReplacement(words.get(random.nextInt(words.size())));
        });
    }

    // ---- instructions

    private static final Map<String, List<String>> PHRASINGS = new LinkedHashMap<>();

    static {
        PHRASINGS.put(
                "title",
                List.of(
                        "Write a title for this text.",
                        "What would be a good headline for the following passage?",
                        "Give the page below a title.",
                        "Suggest a short heading.",
                        "Find a heading for this section.",
                        "Summarise the text in a title of a few words.",
                        "Title this passage.",
                        "Which title fits the text below?",
                        "Provide a headline for the following text.",
                        "Name this section of a page.",
                        "Write a heading that says what the text is about.",
                        "How would you title the following?"));
        PHRASINGS.put(
                "description",
                List.of(
                        "Write a meta description of at most 155 characters.",
                        "Describe this page in one sentence.",
                        "Say in a sentence what this is for.",
                        "Give a short description for a search result.",
                        "Write one line that describes the following.",
                        "What does this do? Answer in one sentence.",
                        "Summarise the purpose in one line.",
                        "Write the description that a search engine should show."));
        PHRASINGS.put(
                "page-type",
                List.of(
                        "What kind of page is this passage from?",
                        "Name the type of the page.",
                        "Classify the page that this text stands on.",
                        "On what type of page would you find this?",
                        "Tell the page type.",
                        "Which sort of documentation page is it?",
                        "Give the category of the page.",
                        "What type of page does the text belong to?"));
        PHRASINGS.put(
                "search-intent",
                List.of(
                        "What is the intent of this search query?",
                        "Classify the search intent.",
                        "Is the query informational, navigational, transactional or commercial?",
                        "Name the intent behind the query.",
                        "Which intent does the searcher have?",
                        "Tell the search intent of the query.",
                        "What does somebody who types this want?",
                        "Give the intent of the search below."));
    }

    private static final Pattern ROW = Pattern.compile(
            "\\{\"(?:text|source)\":(\"(?:[^\"\\\\]|\\\\.)*\"),\"(?:label|target)\":(\"(?:[^\"\\\\]|\\\\.)*\")}");

    private static List<String> instructions(Path folder, boolean heldOut) throws IOException {
        Random random = new Random(heldOut ? SEED + 1 : SEED);
        List<String> lines = new ArrayList<>();
        int wanted = heldOut ? INSTRUCTIONS / 5 : INSTRUCTIONS;
        for (Map.Entry<String, List<String>> task : PHRASINGS.entrySet()) {
            List<String> phrasings = part(task.getValue(), heldOut);
            List<String> rows = read(folder.resolve(file(task.getKey(), heldOut)));
            Collections.shuffle(rows, random);
            for (int i = 0; i < Math.min(wanted, rows.size()); i++) {
                Matcher row = ROW.matcher(rows.get(i));
                if (!row.matches()) {
                    throw new IllegalStateException(rows.get(i));
                }
                lines.add("{\"instruction\":\"" + phrasings.get(i % phrasings.size()) + "\",\"input\":" + row.group(1)
                        + ",\"output\":" + row.group(2) + "}");
            }
        }
        Collections.shuffle(lines, random);
        return lines;
    }

    private static List<String> read(Path file) throws IOException {
        try (BufferedReader reader = new BufferedReader(
                new InputStreamReader(new GZIPInputStream(Files.newInputStream(file)), StandardCharsets.UTF_8))) {
            return new ArrayList<>(reader.lines().toList());
        }
    }
}
