package dev.loran.peft.cli.report;

import dev.loran.peft.io.Xml;
import java.awt.BasicStroke;
import java.awt.Color;
import java.awt.Dimension;
import java.awt.Font;
import java.awt.Graphics2D;
import java.awt.RenderingHints;
import java.awt.image.BufferedImage;
import java.io.IOException;
import java.io.StringWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.DoubleSummaryStatistics;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.function.DoubleUnaryOperator;
import java.util.function.Function;
import javax.imageio.ImageIO;
import javax.xml.parsers.DocumentBuilderFactory;
import javax.xml.parsers.ParserConfigurationException;
import org.apache.batik.svggen.SVGGeneratorContext;
import org.apache.batik.svggen.SVGGraphics2D;
import org.knowm.xchart.AnnotationText;
import org.knowm.xchart.CategoryChart;
import org.knowm.xchart.HeatMapChart;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.XYSeries;
import org.knowm.xchart.internal.chartpart.Chart;
import org.knowm.xchart.style.AxesChartStyler;
import org.knowm.xchart.style.CategoryStyler;
import org.knowm.xchart.style.HeatMapStyler;
import org.knowm.xchart.style.Styler.ChartTheme;
import org.knowm.xchart.style.Styler.LegendLayout;
import org.knowm.xchart.style.Styler.LegendPosition;
import org.knowm.xchart.style.markers.Marker;
import org.knowm.xchart.style.markers.SeriesMarkers;
import org.w3c.dom.Document;

/// A chart, drawn by XChart: as SVG by way of Batik, and as PNG. Needs no display.
final class Plot {
    private static final int WIDTH = 460;
    private static final int HEIGHT = 300;
    private static final int PNG_SCALE = 2;
    private static final String SVG = "http://www.w3.org/2000/svg";
    private static final Font TEXT = new Font(Font.SANS_SERIF, Font.PLAIN, 13);
    /// The share of the axis that bars take.
    private static final double FILL = 0.75;
    private static final Font SMALL = TEXT.deriveFont(11f);
    private static final Marker[] MARKERS = {
        SeriesMarkers.CIRCLE,
        SeriesMarkers.DIAMOND,
        SeriesMarkers.SQUARE,
        SeriesMarkers.TRIANGLE_UP,
        SeriesMarkers.TRIANGLE_DOWN,
    };

    private final Chart<?, ?> chart;

    private Plot(Chart<?, ?> chart, AxesChartStyler style) {
        this.chart = chart;
        style.setChartBackgroundColor(Palette.PAPER.light)
                .setPlotBackgroundColor(Palette.PAPER.light)
                .setPlotBorderVisible(false)
                .setChartFontColor(Palette.INK.light)
                .setChartTitleVisible(false)
                .setChartPadding(6)
                .setLegendBackgroundColor(Palette.PAPER.light)
                .setLegendBorderColor(Palette.PAPER.light)
                .setLegendFont(TEXT)
                .setLegendPadding(4)
                .setAnnotationTextFont(SMALL)
                .setAnnotationTextFontColor(Palette.INK.light);
        style.setPlotGridLinesColor(Palette.GRID.light)
                .setPlotGridLinesStroke(new BasicStroke(1))
                .setAxisTickLabelsColor(Palette.INK.light)
                .setAxisTickMarksColor(Palette.GRID.light)
                .setAxisTickLabelsFont(TEXT)
                .setAxisTitleFont(TEXT)
                .setLocale(Locale.ROOT);
    }

    /// A number in a short form, as on axes: 1.5 M.
    static String number(double v) {
        double size = Math.abs(v);
        if (size < 1000) {
            return String.format(Locale.ROOT, "%.4f", v).replaceAll("\\.?0+$", "");
        }
        int power = Math.min(4, (int) (Math.log10(size) / 3 + 1e-9));
        String digits = String.format(Locale.ROOT, "%.2f", v / Math.pow(1000, power));
        return digits.replaceAll("\\.?0+$", "") + " " + "kMGT".charAt(power - 1);
    }

    /// A line, or a point.
    ///
    /// @param number of the colour and the marker
    /// @param marked whether each value has a marker
    record Line(String name, int number, Map<Double, Double> values, boolean marked) {}

    /// Bars side by side, one group for each name.
    ///
    /// @param series values by name, by the series' name
    /// @param logarithmic whether the axis is
    /// @param label what stands above a bar
    static Plot bars(String axis, Map<String, Map<String, Double>> series, boolean logarithmic, Label label) {
        Set<String> all = new LinkedHashSet<>();
        series.values().forEach(values -> all.addAll(values.keySet()));
        List<String> names = List.copyOf(all);
        boolean upright = names.size() * longest(names) > 50;
        int height = HEIGHT + (upright ? 4 * longest(names) : 0);
        CategoryChart chart = new CategoryChart(Math.max(WIDTH, 80 + 40 * names.size()), height);
        chart.setYAxisTitle(axis);
        CategoryStyler style = chart.getStyler();
        // XChart places ticks of its own text as on a linear axis: so it gets the logarithms themselves.
        DoubleUnaryOperator scale = logarithmic ? v -> Math.log10(Math.max(1, v)) : v -> v;
        DoubleSummaryStatistics range = series.values().stream()
                .flatMap(values -> values.values().stream())
                .mapToDouble(v -> scale.applyAsDouble(v))
                .summaryStatistics();
        double bottom = logarithmic ? Math.max(0, Math.floor(range.getMin()) - 1) : 0;
        double top = bottom + 1.15 * Math.max(range.getMax() - bottom, 1e-9);
        int number = 0;
        for (Map.Entry<String, Map<String, Double>> s : series.entrySet()) {
            List<Double> values = new ArrayList<>();
            for (int i = 0; i < names.size(); i++) {
                Double value = s.getValue().get(names.get(i));
                Double drawn = value == null ? null : (Double) scale.applyAsDouble(value);
                values.add(drawn);
                if (value != null && drawn != null) {
                    double x = i + 0.5 + FILL * ((number + 0.5) / series.size() - 0.5);
                    double y = drawn + 0.035 * (top - bottom);
                    chart.addAnnotation(new AnnotationText(label.of(names.get(i), value), x, y, false));
                }
            }
            chart.addSeries(s.getKey(), names, values).setFillColor(Palette.series(number++).light);
        }
        style.setyAxisTickLabelsFormattingFunction(logarithmic ? Plot::power : Plot::number)
                .setYAxisMin(bottom)
                .setYAxisMax(top);
        style.setAvailableSpaceFill(FILL)
                .setPlotGridVerticalLinesVisible(false)
                .setXAxisLabelRotation(upright ? 90 : 0)
                .setLegendVisible(series.size() > 1)
                .setLegendPosition(LegendPosition.OutsideS)
                .setLegendLayout(LegendLayout.Horizontal);
        return new Plot(chart, style);
    }

    /// The text of ten to the power of `log`, where that is whole.
    private static String power(double log) {
        return Math.abs(log - Math.rint(log)) < 0.01 ? number(Math.pow(10, Math.rint(log))) : " ";
    }

    /// The text of a bar's label.
    interface Label {
        String of(String name, double value);
    }

    private static int longest(List<String> names) {
        return names.stream().mapToInt(String::length).max().orElse(0);
    }

    static Plot lines(String xAxis, String yAxis, List<Line> lines) {
        XYChart chart = new XYChart(WIDTH, HEIGHT);
        chart.setXAxisTitle(xAxis);
        chart.setYAxisTitle(yAxis);
        for (Line line : lines) {
            List<Double> x = new ArrayList<>(line.values.keySet());
            // Evenly spaced values would become the ticks, whatever their digits; these are uneven.
            x.set(0, x.getFirst() + 1e-3);
            XYSeries s = chart.addSeries(line.name, x, List.copyOf(line.values.values()));
            Color colour = Palette.series(line.number).light;
            s.setLineColor(colour);
            s.setMarkerColor(colour);
            s.setLineStyle(new BasicStroke(2, BasicStroke.CAP_ROUND, BasicStroke.JOIN_ROUND));
            s.setMarker(line.marked ? MARKERS[line.number % MARKERS.length] : SeriesMarkers.NONE);
        }
        chart.getStyler()
                .setxAxisTickLabelsFormattingFunction(Plot::number)
                .setyAxisTickLabelsFormattingFunction(Plot::number)
                .setXAxisTickMarkSpacingHint(60)
                .setXAxisMin(0.0);
        chart.getStyler()
                .setMarkerSize(7)
                .setLegendVisible(lines.size() > 1)
                .setLegendPosition(LegendPosition.OutsideE);
        return new Plot(chart, chart.getStyler());
    }

    /// One point for each line.
    ///
    /// @param ticks the text of a value on the x axis
    static Plot points(String xAxis, String yAxis, List<Line> points, Function<Double, String> ticks) {
        Plot plot = lines(xAxis, yAxis, points);
        XYChart chart = (XYChart) plot.chart;
        chart.getStyler()
                .setDefaultSeriesRenderStyle(XYSeries.XYSeriesRenderStyle.Scatter)
                .setMarkerSize(11);
        chart.getStyler().setxAxisTickLabelsFormattingFunction(ticks).setLegendVisible(true);
        double most = points.stream().flatMap(p -> p.values.keySet().stream()).reduce(1.0, Math::max);
        chart.getStyler().setXAxisMin(-0.2).setXAxisMax(Math.ceil(most + 0.1));
        return plot;
    }

    /// A heat map of small numbers.
    ///
    /// @param columns a list of one number for each row, by column
    static Plot heat(String xAxis, List<String> names, List<String> rows, List<int[]> columns) {
        // Only a chart with a theme gets default styles.
        HeatMapChart chart = new HeatMapChart(WIDTH, Math.max(HEIGHT, 110 + 14 * rows.size()), ChartTheme.XChart);
        chart.setXAxisTitle(xAxis);
        List<Number[]> cells = new ArrayList<>();
        int most = 1;
        for (int x = 0; x < columns.size(); x++) {
            for (int y = 0; y < rows.size(); y++) {
                // The first row is the lowest of the chart.
                int value = columns.get(x)[rows.size() - 1 - y];
                cells.add(new Number[] {x, y, value});
                most = Math.max(most, value);
            }
        }
        List<String> upwards = new ArrayList<>(rows);
        Collections.reverse(upwards);
        int apart = Math.max(1, names.size() / 5);
        List<String> ticks = new ArrayList<>();
        for (int x = 0; x < names.size(); x++) {
            ticks.add((x - apart / 2) % apart == 0 ? names.get(x) : " ");
        }
        chart.addSeries("rank", ticks, upwards, cells);
        HeatMapStyler style = chart.getStyler();
        style.setRangeColors(Palette.HEAT)
                .setMin(0)
                .setMax(most)
                // The SVG would lack the colours of a gradual legend.
                .setPiecewise(true)
                .setSplitNumber(Math.min(6, most))
                .setHeatMapValueDecimalPattern("0");
        style.setPlotGridLinesVisible(false).setPlotContentSize(1);
        return new Plot(chart, style);
    }

    /// As an SVG file.
    String svg() {
        return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" + element() + "\n";
    }

    /// As an element of an HTML page that declares the [Palette]'s variables.
    ///
    /// @param id a prefix for its own ids
    String inline(String id, String title) {
        return Palette.withVariables(element())
                .replaceAll(" xmlns(:xlink)?=\"[^\"]*\"", "")
                .replaceAll("(\\bid=\"|url\\(#|href=\"#)", "$1" + id + "-")
                .replaceFirst(
                        "<svg [^>]*>",
                        "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">"
                                .formatted(chart.getWidth(), chart.getHeight(), Xml.escaped(title)));
    }

    private String element() {
        try {
            Document document = DocumentBuilderFactory.newInstance()
                    .newDocumentBuilder()
                    .getDOMImplementation()
                    .createDocument(SVG, "svg", null);
            SVGGeneratorContext context = SVGGeneratorContext.createDefault(document);
            context.setPrecision(2);
            SVGGraphics2D graphics = new SVGGraphics2D(context, false);
            graphics.setSVGCanvasSize(new Dimension(chart.getWidth(), chart.getHeight()));
            chart.paint(graphics, chart.getWidth(), chart.getHeight());
            StringWriter text = new StringWriter();
            graphics.stream(text, false);
            String svg = text.toString();
            return svg.substring(svg.indexOf("<svg")).strip();
        } catch (ParserConfigurationException | IOException e) {
            throw new IllegalStateException("an SVG in memory", e);
        }
    }

    void writePng(Path file) throws IOException {
        BufferedImage image = new BufferedImage(
                PNG_SCALE * chart.getWidth(), PNG_SCALE * chart.getHeight(), BufferedImage.TYPE_INT_RGB);
        Graphics2D graphics = image.createGraphics();
        graphics.setRenderingHint(RenderingHints.KEY_ANTIALIASING, RenderingHints.VALUE_ANTIALIAS_ON);
        graphics.scale(PNG_SCALE, PNG_SCALE);
        chart.paint(graphics, chart.getWidth(), chart.getHeight());
        graphics.dispose();
        ImageIO.write(image, "png", file.toFile());
    }
}
